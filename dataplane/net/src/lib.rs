//! culvert-net
