//! culvert-iked-bridge
