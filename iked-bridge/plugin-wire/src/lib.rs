//! culvert-plugin-wire
