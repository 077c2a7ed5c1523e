//! Compiles the schema in `proto/` without a `protoc`: protox reads it, prost-build writes the Rust.
//!
//! ```text
//! proto/**.proto -> protox -> descriptor set with options and comments -> $OUT_DIR/culvert.pb
//!                          -> prost-build -> $OUT_DIR/culvert.*.rs  <- redacting Debug appended
//! ```
//!
//! A message that holds a field marked `(culvert.field).secret`, or a message that does, gets no derived
//! `Debug`. It gets one written here that prints every other field and only the length of a secret.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use protox::prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, ExtensionDescriptor, FieldDescriptor, Kind,
    MessageDescriptor, Value,
};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new("proto");
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut files = Vec::new();
    collect_protos(root, &mut files)?;
    files.sort();

    let mut compiler = protox::Compiler::new([root])?;
    compiler
        .include_source_info(true)
        .include_imports(true)
        .open_files(&files)?;
    // Not through prost-types: those structs have no place for our options and lose them.
    fs::write(
        out_dir.join("culvert.pb"),
        compiler.encode_file_descriptor_set(),
    )?;

    let pool = compiler.descriptor_pool();
    let redacted = redacted_messages(&pool);
    prost_build::Config::new()
        .out_dir(&out_dir)
        .skip_debug(redacted.iter().map(|name| format!(".{name}")))
        .include_file("schema.rs")
        .compile_fds(compiler.file_descriptor_set())?;
    for (package, text) in debug_impls(&pool, &redacted) {
        let path = out_dir.join(format!("{package}.rs"));
        let mut generated = fs::read_to_string(&path)?;
        generated.push_str(&text);
        fs::write(path, generated)?;
    }
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    Ok(())
}

fn collect_protos(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect_protos(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            files.push(path);
        }
    }
    Ok(())
}

/// Whether `(culvert.field).secret` is set.
fn is_secret(field: &FieldDescriptor, rules: &ExtensionDescriptor) -> bool {
    let options = field.options();
    let value = options.get_extension(rules);
    value
        .as_message()
        .and_then(|rules| rules.get_field_by_name("secret"))
        .is_some_and(|secret| *secret == Value::Bool(true))
}

/// Full names of all messages through which a secret can be reached.
fn redacted_messages(pool: &DescriptorPool) -> BTreeSet<String> {
    let Some(rules) = pool.get_extension_by_name("culvert.field") else {
        return BTreeSet::new();
    };
    let ours: Vec<MessageDescriptor> = pool
        .all_messages()
        .filter(|message| message.package_name().starts_with("culvert"))
        .collect();
    let mut redacted = BTreeSet::new();
    loop {
        let before = redacted.len();
        for message in &ours {
            let reaches = message.fields().any(|field| {
                is_secret(&field, &rules)
                    || matches!(field.kind(), Kind::Message(inner) if redacted.contains(inner.full_name()))
            });
            // prost-build matches paths by prefix: what is nested in a redacted message is redacted, too.
            let nested = message
                .parent_message()
                .is_some_and(|parent| redacted.contains(parent.full_name()));
            if reaches || nested {
                redacted.insert(message.full_name().to_owned());
            }
        }
        if redacted.len() == before {
            return redacted;
        }
    }
}

/// The `Debug` implementations of each package's redacted messages, their oneofs and nested enums.
fn debug_impls(pool: &DescriptorPool, redacted: &BTreeSet<String>) -> BTreeMap<String, String> {
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    let Some(rules) = pool.get_extension_by_name("culvert.field") else {
        return texts;
    };
    for message in pool.all_messages() {
        if !redacted.contains(message.full_name()) {
            continue;
        }
        let text = texts.entry(message.package_name().to_owned()).or_default();
        debug_of_message(text, &message, &rules);
        for oneof in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
            debug_of_oneof(text, &message, oneof.name(), oneof.fields(), &rules);
        }
        for nested in message.child_enums() {
            debug_of_enum(text, &message, &nested);
        }
    }
    texts
}

fn debug_of_message(text: &mut String, message: &MessageDescriptor, rules: &ExtensionDescriptor) {
    let path = rust_path(message);
    let name = message.name();
    let _ = writeln!(
        text,
        "impl ::core::fmt::Debug for {path} {{\n    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{\n        f.debug_struct({name:?})"
    );
    let mut oneofs = BTreeSet::new();
    for field in message.fields() {
        let real_oneof = field
            .containing_oneof()
            .filter(|oneof| !oneof.is_synthetic());
        if let Some(oneof) = real_oneof {
            if oneofs.insert(oneof.name().to_owned()) {
                let (shown, ident) = (oneof.name(), identifier(oneof.name()));
                let _ = writeln!(text, "            .field({shown:?}, &self.{ident})");
            }
            continue;
        }
        let (shown, ident) = (field.name(), identifier(field.name()));
        if is_secret(&field, rules) {
            let wrapper = if field.cardinality() == Cardinality::Repeated {
                "Many"
            } else if field.containing_oneof().is_some() {
                "Maybe"
            } else {
                "One"
            };
            let _ = writeln!(
                text,
                "            .field({shown:?}, &crate::redaction::{wrapper}(&self.{ident}))"
            );
        } else {
            let _ = writeln!(text, "            .field({shown:?}, &self.{ident})");
        }
    }
    let _ = writeln!(text, "            .finish()\n    }}\n}}");
}

fn debug_of_oneof(
    text: &mut String,
    message: &MessageDescriptor,
    oneof: &str,
    fields: impl Iterator<Item = FieldDescriptor>,
    rules: &ExtensionDescriptor,
) {
    let path = format!("{}::{}", module_path(message), camel(oneof));
    let _ = writeln!(
        text,
        "impl ::core::fmt::Debug for {path} {{\n    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{\n        match self {{"
    );
    for field in fields {
        let variant = camel(field.name());
        let shown = if is_secret(&field, rules) {
            "&crate::redaction::One(value)"
        } else {
            "value"
        };
        let _ = writeln!(
            text,
            "            Self::{variant}(value) => f.debug_tuple({variant:?}).field({shown}).finish(),"
        );
    }
    let _ = writeln!(text, "        }}\n    }}\n}}");
}

fn debug_of_enum(text: &mut String, message: &MessageDescriptor, nested: &EnumDescriptor) {
    let path = format!("{}::{}", module_path(message), nested.name());
    let _ = writeln!(
        text,
        "impl ::core::fmt::Debug for {path} {{\n    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{\n        f.write_str(self.as_str_name())\n    }}\n}}"
    );
}

/// `Outer.Inner` is `outer::Inner` in what prost writes.
fn rust_path(message: &MessageDescriptor) -> String {
    match message.parent_message() {
        Some(parent) => format!("{}::{}", module_path(&parent), message.name()),
        None => message.name().to_owned(),
    }
}

fn module_path(message: &MessageDescriptor) -> String {
    let own = snake(message.name());
    match message.parent_message() {
        Some(parent) => format!("{}::{own}", module_path(&parent)),
        None => own,
    }
}

fn snake(name: &str) -> String {
    let mut text = String::new();
    for (index, letter) in name.chars().enumerate() {
        if letter.is_ascii_uppercase() && index > 0 {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

fn camel(name: &str) -> String {
    name.split('_')
        .flat_map(|word| {
            let mut letters = word.chars();
            letters
                .next()
                .map(|first| first.to_ascii_uppercase())
                .into_iter()
                .chain(letters)
        })
        .collect()
}

fn identifier(name: &str) -> String {
    if ["type", "ref", "match", "use", "move"].contains(&name) {
        format!("r#{name}")
    } else {
        name.to_owned()
    }
}
