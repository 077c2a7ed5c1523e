//! Keys that people log in with, as `ssh-keygen` makes them.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

/// Makes a pair at `path` and `path.pub`; gives the line of the public one.
pub fn make_key(path: &Path) -> anyhow::Result<String> {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .status()
        .context("ssh-keygen")?;
    ensure!(made.success(), "ssh-keygen: {made}");
    let public = fs::read_to_string(path.with_extension("pub"))?;
    Ok(public.trim().to_owned())
}
