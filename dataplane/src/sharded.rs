//! A map from a number to a number of which a new version shares almost everything with the old one.
//!
//! Same use as [`crate::chunked`], for keys that are spread out: a change copies one shard of 64.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

const SHARDS: usize = 64;

/// Spreads a 32-bit key with one multiplication. Keys are drawn by us (SPIs) or configured (`if_id`): nobody outside
/// can choose them to collide.
#[derive(Default)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    #[inline(always)]
    fn finish(&self) -> u64 {
        self.0
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    #[inline(always)]
    fn write_u32(&mut self, number: u32) {
        // 2^64 divided by the golden ratio.
        self.0 = (self.0 ^ u64::from(number))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }
}

type Shard<V> = HashMap<u32, V, BuildHasherDefault<NumberHasher>>;

/// See the module.
#[derive(Debug)]
pub struct Sharded<V>(Box<[Arc<Shard<V>>]>);

impl<V> Clone for Sharded<V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<V> Default for Sharded<V> {
    fn default() -> Self {
        let empty = Arc::new(Shard::default());
        Self(
            std::iter::repeat_with(|| Arc::clone(&empty))
                .take(SHARDS)
                .collect(),
        )
    }
}

impl<V: Clone> Sharded<V> {
    /// The value of `key`.
    #[inline(always)]
    pub fn get(&self, key: u32) -> Option<&V> {
        self.0[key as usize % SHARDS].get(&key)
    }

    /// Puts or takes the value of `key`; gives the old one.
    pub fn set(&mut self, key: u32, value: Option<V>) -> Option<V> {
        let shard = Arc::make_mut(&mut self.0[key as usize % SHARDS]);
        match value {
            Some(value) => shard.insert(key, value),
            None => shard.remove(&key),
        }
    }

    /// Every key with its value, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &V)> {
        self.0
            .iter()
            .flat_map(|shard| shard.iter())
            .map(|(key, value)| (*key, value))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn an_old_version_does_not_see_a_change() {
        let mut table = Sharded::default();
        for key in 0..1000 {
            table.set(key * 7919, Some(key));
        }
        let old = table.clone();
        assert_eq!(table.set(7919, None), Some(1));
        assert_eq!((table.get(7919), old.get(7919)), (None, Some(&1)));
        assert_eq!((table.iter().count(), old.iter().count()), (999, 1000));
    }
}
