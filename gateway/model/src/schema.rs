//! The descriptors of the whole schema, with their options and comments, at run time.

use std::sync::OnceLock;

use prost_reflect::{DescriptorPool, MessageDescriptor};

/// The encoded `FileDescriptorSet` as protox wrote it: options and source information kept.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/culvert.pb"));

/// All descriptors, decoded once.
pub fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    // The set was written by this crate's build script; a test decodes it.
    POOL.get_or_init(|| DescriptorPool::decode(DESCRIPTOR_SET).unwrap_or_default())
}

/// The descriptor of a message by its full name.
pub fn message(full_name: &str) -> Option<MessageDescriptor> {
    pool().get_message_by_name(full_name)
}
