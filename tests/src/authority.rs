//! An authority for certificates that nobody here wrote: strongSwan's `pki`, and OpenSSL where a request is signed.
//!
//! ```text
//!   pki --self   --> ca.key, ca.pem
//!   pki --issue  --> a.pem, b.pem      of keys that are made here
//!   openssl x509 -req                  of a key that nobody here has
//! ```

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use culvert_netlab::addressing::Side;
use culvert_netlab::canary;

use crate::configuration::identity;

/// An authority and a certificate for each side, ECDSA on P-256, each in a file of its own.
pub fn make_certificates(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    let pki = |arguments: &[&str], output: &str| {
        let made = Command::new("pki")
            .args(arguments)
            .current_dir(folder)
            .output()
            .context("pki of strongswan-pki")?;
        ensure!(made.status.success(), "pki {arguments:?}: {made:?}");
        fs::write(folder.join(output), made.stdout)?;
        Ok(())
    };
    let generate = [
        "--gen",
        "--type",
        "ecdsa",
        "--size",
        "256",
        "--outform",
        "pem",
    ];
    for key in ["ca.key", "b.key"] {
        pki(&generate, key)?;
    }
    // The one that our gateway has: it is looked for at the end of the suite.
    fs::write(folder.join("a.key"), canary::PRIVATE_KEY)?;
    let authority = ["--self", "--ca", "--type", "ecdsa", "--in", "ca.key"];
    let named = ["--dn", "CN=culvert test authority", "--outform", "pem"];
    pki(&[authority.as_slice(), &named].concat(), "ca.pem")?;
    for (side, name) in [(Side::A, "a"), (Side::B, "b")] {
        let (public, key) = (format!("{name}.pub"), format!("{name}.key"));
        pki(
            &["--pub", "--type", "ecdsa", "--in", &key, "--outform", "pem"],
            &public,
        )?;
        let (subject, identity) = (format!("CN={}", identity(side)), identity(side));
        let authority = ["--issue", "--cakey", "ca.key", "--cacert", "ca.pem"];
        let of = ["--type", "pub", "--in", &public, "--dn", &subject];
        let named = ["--san", &identity, "--outform", "pem"];
        pki(
            &[authority.as_slice(), &of, &named].concat(),
            &format!("{name}.pem"),
        )?;
    }
    Ok(())
}

/// The certificate that the authority in this folder makes of a request, both in PEM, with the names that were asked for.
pub fn sign(folder: &Path, request: &[u8]) -> anyhow::Result<String> {
    let mut child = Command::new("openssl")
        .args([
            "x509",
            "-req",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
        ])
        .args(["-days", "2", "-copy_extensions", "copyall"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("openssl")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(request)?;
    }
    let made = child.wait_with_output()?;
    ensure!(made.status.success(), "openssl: {made:?}");
    Ok(String::from_utf8(made.stdout)?)
}
