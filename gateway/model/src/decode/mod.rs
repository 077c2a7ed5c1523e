//! The one entrance of configuration: strict, bounded, the same for JSON and binary.
//!
//! ```text
//! JSON text --> json (tree) --> build (names, types) --+
//!                                                      +--> DynamicMessage --> check --> Config
//! binary ---> prost-reflect ---------------------------+        ranges, keys, references
//! ```
//!
//! What an ordinary decoder lets pass is refused here: fields nobody knows, a name given twice or in the
//! other spelling, two items with one key, numbers that stand for no enum value, references to nothing.
//! All that is wrong is told at once, each with its path, the reason, and what would be right.

mod build;
mod check;
pub(crate) mod error;
mod json;
pub(crate) mod leaf;
pub(crate) mod path;

use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value};
use zeroize::{Zeroize, Zeroizing};

use check::{Admission, Extent};
pub use error::{DecodeError, DecodeErrors, Reason};
pub(crate) use leaf::address_range;
pub use leaf::key_bytes;

use crate::config::Config;
use crate::schema;
use crate::tree::{Tree, TreeError};

/// Longest document, in bytes.
pub const MAX_BYTES: usize = 16 << 20;
/// Deepest nesting.
pub const MAX_DEPTH: usize = 32;
/// Most values in one document: what 100,000 routes need, and no more memory than that takes.
pub const MAX_VALUES: usize = 1 << 20;
/// Most errors that are told of one document.
pub const MAX_ERRORS: usize = 100;

/// A configuration from JSON text.
pub fn config_from_json(text: &[u8]) -> Result<Config, DecodeErrors> {
    json(&config_descriptor()?, text).and_then(typed)
}

/// A configuration from its protobuf encoding.
pub fn config_from_binary(bytes: &[u8]) -> Result<Config, DecodeErrors> {
    binary(&config_descriptor()?, bytes).and_then(typed)
}

/// What a configuration that takes effect must be.
const IN_FULL: Admission = Admission {
    extent: Extent::Whole,
    digests: false,
};

/// What is asked of a configuration that is still being written.
const IN_PART: Admission = Admission {
    extent: Extent::Leaves,
    digests: true,
};

/// Any message of the schema from JSON text.
pub fn json(descriptor: &MessageDescriptor, text: &[u8]) -> Result<DynamicMessage, DecodeErrors> {
    json_as(descriptor, text, IN_FULL)
}

/// As [`json()`], but something may be missing yet, and digests may stand for secrets.
pub(crate) fn json_in_part(
    descriptor: &MessageDescriptor,
    text: &[u8],
) -> Result<DynamicMessage, DecodeErrors> {
    json_as(descriptor, text, IN_PART)
}

fn json_as(
    descriptor: &MessageDescriptor,
    text: &[u8],
    admission: Admission,
) -> Result<DynamicMessage, DecodeErrors> {
    let tree = json::parse(text).map_err(whole)?;
    let (message, mut errors) = build::message(descriptor, tree);
    // What could not be read is absent from the message: the check would tell it as missing once more.
    let unread: Vec<String> = errors.iter().map(|error| error.path.clone()).collect();
    let told = |error: &DecodeError| {
        unread.iter().any(|path| {
            path::within(path, &error.path)
                || (error.reason == Reason::Missing && path::within(&error.path, path))
        })
    };
    let extent = match admission.extent {
        Extent::Whole if !unread.is_empty() => Extent::Complete,
        extent => extent,
    };
    errors.extend(
        check::message(
            &message,
            Admission {
                extent,
                ..admission
            },
        )
        .into_iter()
        .filter(|error| !told(error)),
    );
    finish(message, errors)
}

/// Any message of the schema from its protobuf encoding.
pub fn binary(
    descriptor: &MessageDescriptor,
    bytes: &[u8],
) -> Result<DynamicMessage, DecodeErrors> {
    binary_as(descriptor, bytes, IN_FULL)
}

/// As [`binary()`], but something may be missing yet, and digests may stand for secrets.
pub(crate) fn binary_in_part(
    descriptor: &MessageDescriptor,
    bytes: &[u8],
) -> Result<DynamicMessage, DecodeErrors> {
    binary_as(descriptor, bytes, IN_PART)
}

/// All that is wrong with a configuration of which each leaf is right; digests may stand for secrets. It is
/// what `Tree::validate` must find.
#[cfg(test)]
pub(crate) fn faults(message: &DynamicMessage) -> Vec<DecodeError> {
    check::message(
        message,
        Admission {
            digests: true,
            ..IN_FULL
        },
    )
}

fn binary_as(
    descriptor: &MessageDescriptor,
    bytes: &[u8],
    admission: Admission,
) -> Result<DynamicMessage, DecodeErrors> {
    if bytes.len() > MAX_BYTES {
        return Err(whole(Reason::TooLarge {
            bytes: bytes.len(),
            limit: MAX_BYTES,
        }));
    }
    let message = DynamicMessage::decode(descriptor.clone(), bytes).map_err(|error| {
        whole(Reason::Wire {
            message: error.to_string(),
        })
    })?;
    let mut errors = check::message(&message, admission);
    let canonical = message.encoded_len();
    if errors.is_empty() && canonical != bytes.len() {
        errors.push(DecodeError {
            path: String::new(),
            reason: Reason::NotCanonical {
                bytes: bytes.len(),
                canonical,
            },
        });
    }
    finish(message, errors)
}

pub(crate) fn config_descriptor() -> Result<MessageDescriptor, DecodeErrors> {
    schema::message("culvert.config.v1.Config").ok_or_else(|| {
        whole(Reason::Wire {
            message: "the schema lacks culvert.config.v1.Config".to_owned(),
        })
    })
}

fn typed(mut message: DynamicMessage) -> Result<Config, DecodeErrors> {
    // What is noted as inactive takes no effect: the tree knows what is left.
    if message.has_field_by_name("notes") {
        let tree = match Tree::from_message(message) {
            Ok(tree) => tree,
            Err(TreeError::Decode(errors)) => return Err(errors),
            Err(error) => return Err(noted(&error)),
        };
        tree.validate()?;
        return tree.to_config().map_err(|error| noted(&error));
    }
    let bytes = Zeroizing::new(message.encode_to_vec());
    wipe(&mut message);
    Config::decode(bytes.as_slice()).map_err(|error| {
        whole(Reason::Wire {
            message: error.to_string(),
        })
    })
}

fn noted(error: &TreeError) -> DecodeErrors {
    whole(Reason::Wire {
        message: error.to_string(),
    })
}

fn whole(reason: Reason) -> DecodeErrors {
    DecodeErrors(vec![DecodeError {
        path: String::new(),
        reason,
    }])
}

fn finish(
    mut message: DynamicMessage,
    mut errors: Vec<DecodeError>,
) -> Result<DynamicMessage, DecodeErrors> {
    if errors.is_empty() {
        return Ok(message);
    }
    wipe(&mut message);
    errors.truncate(MAX_ERRORS);
    Err(DecodeErrors(errors))
}

/// Wipes every text of a message, secrets among them.
pub(crate) fn wipe(message: &mut DynamicMessage) {
    for (_, value) in message.fields_mut() {
        wipe_value(value);
    }
}

fn wipe_value(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Message(inner) => wipe(inner),
        Value::List(items) => items.iter_mut().for_each(wipe_value),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
