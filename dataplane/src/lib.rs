//! culvert-dataplane
