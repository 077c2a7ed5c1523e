//! culvert-charon-plugin
