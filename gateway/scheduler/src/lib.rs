//! culvert-scheduler
