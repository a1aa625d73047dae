"""Where bytes live: three small interfaces, their back ends, and the handles that bind them to one tenant."""
