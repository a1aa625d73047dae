"""Workers: a project of JavaScript or TypeScript becomes modules that an isolate of V8 runs."""
