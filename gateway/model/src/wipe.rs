//! Messages that hold a secret themselves wipe it when they are dropped.
//!
//! Since they have a `Drop`, their fields cannot be moved out: `std::mem::take` them, and wipe what was
//! taken.

use zeroize::Zeroize;

use crate::bus::{PreSharedKey, PrivateKey, SaKeys, Wwan};
use crate::config;

impl Drop for SaKeys {
    fn drop(&mut self) {
        self.encryption.zeroize();
        self.integrity.zeroize();
    }
}

impl Drop for PreSharedKey {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl Drop for Wwan {
    fn drop(&mut self) {
        self.password.zeroize();
        self.pin.zeroize();
    }
}

impl Drop for config::PreSharedKey {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl Drop for config::EapSecret {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl Drop for config::PrivateKey {
    fn drop(&mut self) {
        self.pem.zeroize();
    }
}

impl Drop for config::WwanInterface {
    fn drop(&mut self) {
        self.password.zeroize();
        self.pin.zeroize();
    }
}
