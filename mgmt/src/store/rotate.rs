//! A new key for all secrets.
//!
//! ```text
//! key file:  old ──> old + new ───────────────────────────────> new
//! database:  old secrets ──── one transaction ──> new secrets
//! exports:   old secrets ──────────────────────────── written again
//! ```
//!
//! At every point all that is needed to open what lies on the disk lies there, too. A start that finds two keys goes
//! on from where it was.

use super::Store;
use super::candidate;
use super::error::StoreError;
use super::revision::{Stored, numbers};

impl Store {
    /// Draws a new key and seals everything again with it; the old key is gone when this returns.
    pub fn rotate_key(&mut self) -> Result<(), StoreError> {
        if self.read_only {
            return Err(StoreError::ReadOnly);
        }
        // One that could not be ended goes first: the key file has room for two keys.
        if self.keys.is_rotating() {
            self.finish_rotation()?;
        }
        self.keys.begin_rotation(&self.directory)?;
        self.finish_rotation()
    }

    /// How many keys there were before the one that seals now.
    pub fn key_generation(&self) -> u32 {
        self.keys.sealing().generation()
    }

    /// Goes on with a rotation from wherever it was.
    pub(super) fn finish_rotation(&mut self) -> Result<(), StoreError> {
        self.write(|transaction, keys, _| {
            let key = keys.sealing();
            for number in numbers(transaction)? {
                let Some(mut stored) = Stored::load(transaction, number)? else {
                    continue;
                };
                if stored.generation == key.generation() {
                    continue;
                }
                let sealed = stored.sealed.clone();
                stored.sealed = if sealed.is_empty() {
                    sealed
                } else {
                    let older =
                        keys.of(stored.generation)
                            .ok_or_else(|| StoreError::SecretUnopened {
                                of: format!("revision {number}"),
                                path: "*".to_owned(),
                            })?;
                    key.seal_all(number.get(), &older.open_all(number.get(), &sealed)?)?
                };
                stored.generation = key.generation();
                stored.save_state(transaction)?;
            }
            candidate::reseal_all(transaction, keys)
        })?;
        self.renew_exports()?;
        self.keys.finish_rotation(&self.directory)?;
        self.bound_log();
        tracing::info!(
            generation = self.keys.sealing().generation(),
            "secrets are sealed with a new key"
        );
        Ok(())
    }
}
