"""The platform as a whole: composed in `wire`, run by `serve`. The only room that knows every other one."""
