//! libFuzzer in front of the targets of `culvert_tests::fuzz`; `CULVERT_FUZZ` names the one.
#![no_main]

use std::env;
use std::sync::OnceLock;

use culvert_tests::fuzz::{self, Target};

static TARGET: OnceLock<Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = env::var("CULVERT_FUZZ").expect("CULVERT_FUZZ names a target");
        let target = fuzz::target(&name).unwrap_or_else(|| panic!("there is no target {name}"));
        let _ = TARGET.set(target);
    },
    |input: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.feed)(input);
        }
    }
);
