//! An indexed table of which a new version shares almost everything with the old one.
//!
//! The control thread clones a table, changes a few entries and publishes the clone; workers keep reading theirs.
//! Entries lie in chunks of 64 behind shared pointers: a change copies one chunk and the list of chunks.

use std::sync::Arc;

const CHUNK: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Chunked<T> {
    chunks: Vec<Arc<[Option<Arc<T>>; CHUNK]>>,
}

impl<T> Clone for Chunked<T> {
    fn clone(&self) -> Self {
        Self {
            chunks: self.chunks.clone(),
        }
    }
}

impl<T> Default for Chunked<T> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<T> Chunked<T> {
    /// The entry at `index`.
    #[inline(always)]
    pub fn get(&self, index: u32) -> Option<&Arc<T>> {
        self.chunks.get(index as usize / CHUNK)?[index as usize % CHUNK].as_ref()
    }

    /// Puts `value` at `index`; gives what was there.
    pub fn set(&mut self, index: u32, value: Option<Arc<T>>) -> Option<Arc<T>> {
        let place = index as usize / CHUNK;
        if place >= self.chunks.len() {
            value.as_ref()?;
            self.chunks
                .resize_with(place + 1, || Arc::new([const { None }; CHUNK]));
        }
        let chunk = Arc::make_mut(self.chunks.get_mut(place)?);
        std::mem::replace(&mut chunk[index as usize % CHUNK], value)
    }

    /// Puts `value` at the first index, from `first` on, that has no entry; gives the index.
    pub fn insert(&mut self, first: u32, value: Arc<T>) -> u32 {
        let mut index = first;
        while self.get(index).is_some() {
            index += 1;
        }
        self.set(index, Some(value));
        index
    }

    /// Every entry with its index.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Arc<T>)> {
        self.chunks
            .iter()
            .flat_map(|chunk| chunk.iter())
            .enumerate()
            .filter_map(|(index, entry)| Some((index as u32, entry.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_map_and_old_versions_stay(changes in proptest::collection::vec((0u32..300, proptest::option::of(any::<u8>())), 0..200)) {
            let (mut table, mut model) = (Chunked::default(), BTreeMap::new());
            for (index, value) in changes {
                let (old_table, old_model) = (table.clone(), model.clone());
                table.set(index, value.map(Arc::new));
                match value {
                    Some(value) => model.insert(index, value),
                    None => model.remove(&index),
                };
                for (table, model) in [(&old_table, &old_model), (&table, &model)] {
                    let listed: BTreeMap<_, _> = table.iter().map(|(index, value): (u32, &Arc<u8>)| (index, **value)).collect();
                    prop_assert_eq!(&listed, model);
                }
            }
        }
    }
}
