//! A disk in memory to which a log is applied, and what is left of it when the power goes.
//!
//! ```text
//!  log ──> written, not synced ── sync ──> durable
//!                 │ power cut: any 512-byte sector of it is kept, dropped or torn; names likewise
//!                 v
//!              what the next start finds
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::Random;
use super::disk_log::Event;

const SECTOR: u64 = 512;

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => {
                let (start, end) = (*offset as usize, *offset as usize + bytes.len());
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[start..end].copy_from_slice(bytes);
            }
            Self::Truncate(length) => to.resize(*length as usize, 0),
        }
    }
}

#[derive(Clone, Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Naming {
    Link(PathBuf, usize),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, usize),
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Link(path, file) => {
                names.insert(path.clone(), *file);
            }
            Self::Unlink(path) => {
                names.remove(path);
            }
            Self::Rename(from, to, file) => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
        }
    }

    fn is_in(&self, directory: &Path) -> bool {
        let (Self::Link(path, _) | Self::Unlink(path) | Self::Rename(path, _, _)) = self;
        path.parent() == Some(directory)
    }
}

/// The disk as it was after some part of a log.
#[derive(Clone, Default)]
pub(super) struct Disk {
    files: Vec<File>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    pending_names: Vec<Naming>,
}

impl Disk {
    /// A disk on which the files of this directory lie, all of them durable.
    pub(super) fn load(path: &Path) -> Self {
        let mut disk = Self::default();
        let mut directories = vec![path.to_owned()];
        while let Some(directory) = directories.pop() {
            for found in fs::read_dir(directory).unwrap() {
                let path = found.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                    continue;
                }
                disk.files.push(File {
                    durable: fs::read(&path).unwrap(),
                    pending: Vec::new(),
                });
                disk.durable_names.insert(path, disk.files.len() - 1);
            }
        }
        disk.names = disk.durable_names.clone();
        disk
    }

    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::Create(path) => {
                self.files.push(File::default());
                self.name(Naming::Link(path.clone(), self.files.len() - 1));
            }
            Event::Write(path, offset, bytes) => {
                let change = Change::Write(*offset, bytes.clone());
                self.file(path).pending.push(change);
            }
            Event::Truncate(path, length) => {
                self.file(path).pending.push(Change::Truncate(*length));
            }
            Event::Sync(path) => {
                let file = self.file(path);
                for change in std::mem::take(&mut file.pending) {
                    change.apply(&mut file.durable);
                }
            }
            Event::Rename(from, to) => {
                let file = self.names[from];
                self.name(Naming::Rename(from.clone(), to.clone(), file));
            }
            Event::Remove(path) => self.name(Naming::Unlink(path.clone())),
            Event::SyncDirectory(directory) => {
                let durable_names = &mut self.durable_names;
                self.pending_names.retain(|naming| {
                    let synced = naming.is_in(directory);
                    if synced {
                        naming.apply(durable_names);
                    }
                    !synced
                });
            }
            Event::Mark(_) => {}
        }
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.pending_names.push(naming);
    }

    fn file(&mut self, path: &Path) -> &mut File {
        let file = self.names[path];
        &mut self.files[file]
    }

    /// Writes to a directory what is there after a process died: all of it.
    pub(super) fn after_a_crash(&self, from: &Path, to: &Path) {
        for (path, &file) in &self.names {
            let file = &self.files[file];
            let mut bytes = file.durable.clone();
            for change in &file.pending {
                change.apply(&mut bytes);
            }
            materialise(from, to, path, &bytes);
        }
    }

    /// Writes to a directory what may be there after the power went: what was synced, and of the rest what chance
    /// kept.
    pub(super) fn after_a_power_cut(&self, random: &mut Random, from: &Path, to: &Path) {
        // Sometimes nothing of it, sometimes nearly all.
        let kept_of_8 = random.below(9);
        let mut names = self.durable_names.clone();
        for naming in &self.pending_names {
            if random.below(8) < kept_of_8 {
                naming.apply(&mut names);
            }
        }
        for (path, file) in names {
            let file = &self.files[file];
            let mut bytes = file.durable.clone();
            for change in &file.pending {
                match change {
                    Change::Write(offset, written) => {
                        for (offset, sector) in sectors(*offset, written) {
                            if random.below(8) < kept_of_8 {
                                let torn = random.below(4) == 0;
                                let length = if torn {
                                    random.below(sector.len() + 1)
                                } else {
                                    sector.len()
                                };
                                Change::Write(offset, sector[..length].to_vec()).apply(&mut bytes);
                            }
                        }
                    }
                    Change::Truncate(_) if random.below(8) < kept_of_8 => change.apply(&mut bytes),
                    Change::Truncate(_) => {}
                }
            }
            materialise(from, to, &path, &bytes);
        }
    }
}

/// A write, cut where sectors begin.
fn sectors(offset: u64, bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut parts = Vec::new();
    let (mut at, mut rest) = (offset, bytes);
    while !rest.is_empty() {
        let length = ((SECTOR - at % SECTOR) as usize).min(rest.len());
        let (part, after) = rest.split_at(length);
        parts.push((at, part));
        at += length as u64;
        rest = after;
    }
    parts
}

fn materialise(from: &Path, to: &Path, path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt;
    let path = to.join(path.strip_prefix(from).unwrap());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn what_was_synced_stays_and_the_rest_is_kept_dropped_or_torn_by_sector() {
    let place = super::place();
    let (from, to) = (Path::new("/from"), place.path());
    let file = from.join("file");
    let mut disk = Disk::default();
    for event in [
        Event::Create(file.clone()),
        Event::Write(file.clone(), 0, vec![1; 2000]),
        Event::Sync(file.clone()),
        Event::SyncDirectory(from.to_owned()),
        Event::Write(file.clone(), 100, vec![2; 1000]),
        Event::Create(from.join("other")),
    ] {
        disk.apply(&event);
    }
    let mut random = Random(7);
    let (mut seen, mut with_other) = (std::collections::BTreeSet::new(), 0);
    for _ in 0..200 {
        let _ = fs::remove_file(to.join("other"));
        disk.after_a_power_cut(&mut random, from, to);
        let bytes = fs::read(to.join("file")).unwrap();
        assert_eq!(bytes.len(), 2000);
        assert!(
            bytes[..100]
                .iter()
                .chain(&bytes[1100..])
                .all(|&byte| byte == 1)
        );
        // Within a sector there is at most one edge from new to old.
        for sector in [&bytes[100..512], &bytes[512..1024], &bytes[1024..1100]] {
            assert!(sector.is_sorted_by(|one, two| one >= two), "{sector:?}");
        }
        seen.insert(bytes[100..1100].to_vec());
        with_other += u32::from(to.join("other").exists());
    }
    assert!(seen.contains(&vec![1; 1000]) && seen.contains(&vec![2; 1000]) && seen.len() > 30);
    assert!(with_other > 20 && with_other < 180);
}
