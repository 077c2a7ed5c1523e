//! culvert-tap-inject
