//! culvert-bus
