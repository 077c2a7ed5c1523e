//! scapy's ESP as a child process that is asked line by line.
//!
//! ```text
//!   test -- {"do":"open","sa":{..},"packet":".."} --> tests/scapy/oracle.py
//!        <-- {"inner":"..","again":"..","outer":{..}} --
//! ```

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// The version whose answers are known to be right for every combination that is asked here.
pub const VERSION: &str = "2.8.0";

/// Where `make setup` puts the Python environment, unless `CULVERT_PYTHON` names another interpreter.
pub fn interpreter() -> PathBuf {
    std::env::var_os("CULVERT_PYTHON").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../target/python/bin/python"
            ))
        },
        PathBuf::from,
    )
}

/// A running scapy; it ends with this value.
#[derive(Debug)]
pub struct Scapy {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Scapy {
    /// Starts it, and fails if it is missing or another version.
    pub fn start() -> anyhow::Result<Self> {
        let python = interpreter();
        let mut child = Command::new(&python)
            .arg("-u")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scapy/oracle.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} does not start; run `make setup`", python.display()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("no pipes to scapy");
        };
        let mut this = Self {
            child,
            input,
            output: BufReader::new(output).lines(),
        };
        let greeting = this
            .read()
            .context("scapy does not run; run `make setup`")?;
        ensure!(
            greeting["scapy"] == VERSION,
            "scapy {VERSION} is wanted, this is {greeting}; run `make setup`"
        );
        Ok(this)
    }

    /// Asks one thing; an error that scapy raised is an error here.
    pub fn ask(&mut self, request: &Value) -> anyhow::Result<Value> {
        writeln!(self.input, "{request}")?;
        let answer = self.read()?;
        if let Some(error) = answer.get("error") {
            bail!("scapy: {error}");
        }
        Ok(answer)
    }

    fn read(&mut self) -> anyhow::Result<Value> {
        let line = self.output.next().context("scapy has ended")??;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Scapy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes as hexadecimal text.
pub fn to_hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .flatten()
        .collect()
}

/// Bytes of hexadecimal text.
pub fn from_hex(text: &Value) -> anyhow::Result<Vec<u8>> {
    let text = text.as_str().context("no text")?;
    (0..text.len())
        .step_by(2)
        .map(|at| {
            let digits = text.get(at..at + 2).context("half a byte")?;
            Ok(u8::from_str_radix(digits, 16)?)
        })
        .collect()
}
