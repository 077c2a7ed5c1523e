//! The laboratory as a whole: its namespaces, its two gateways and its folder.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use culvert_netlab::{
    addressing::{Place, Side},
    process::{Interrupt, ProcessIdentity, ProcessorTimes},
    topology::{Topology, TopologyError},
};
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use super::{
    configuration::{self, configuration},
    gateway::{Gateway, GatewayError, RunOptions, create_folder},
};

/// Why a laboratory could not be built, used or removed.
#[derive(Debug, thiserror::Error)]
pub enum LaboratoryError {
    /// Namespaces and links.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// A gateway.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// The folder could not be used.
    #[error("{path}: {source}", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another `culvert lab` works on it now.
    #[error("another culvert lab works on {folder} now", folder = .0.display())]
    Busy(PathBuf),
    /// Only root makes namespaces.
    #[error("culvert lab needs root")]
    NotRoot,
}

/// A laboratory, of which all or nothing may be there. One process works on it at a time.
#[derive(Debug)]
pub struct Laboratory {
    topology: Topology,
    folder: PathBuf,
    gateways: [Gateway; 2],
    /// Nobody else builds or removes while this is held.
    lock: Option<Flock<File>>,
}

/// What of a laboratory is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// Namespaces, by their full names.
    pub namespaces: Vec<String>,
    /// Those that are missing.
    pub missing: Vec<String>,
    /// Gateway, whether it runs, whether it is ready.
    pub gateways: [(&'static str, bool, bool); 2],
    /// Processes of a gateway without their `culvert run`.
    pub orphans: usize,
}

impl Laboratory {
    /// Takes hold of the laboratory of this tag.
    pub fn open(tag: &str, folder: Option<&Path>) -> Result<Self, LaboratoryError> {
        let mut this = Self::look(tag, folder)?;
        create_folder(&this.folder)?;
        let failed = |source| LaboratoryError::Folder {
            path: this.folder.clone(),
            source,
        };
        let lock = File::create(this.folder.join("lock")).map_err(failed)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| LaboratoryError::Busy(this.folder.clone()))?;
        this.lock = Some(lock);
        Ok(this)
    }

    /// Looks at it, whoever works on it.
    pub fn look(tag: &str, folder: Option<&Path>) -> Result<Self, LaboratoryError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(LaboratoryError::NotRoot);
        }
        let topology = Topology::new(tag)?;
        let folder = match folder {
            Some(folder) => {
                std::path::absolute(folder).map_err(|source| LaboratoryError::Folder {
                    path: folder.to_owned(),
                    source,
                })?
            }
            None => Path::new("/run").join(format!("culvert-{tag}")),
        };
        let gateways = Side::BOTH.map(|side| Gateway::new(side, &folder));
        Ok(Self {
            topology,
            folder,
            gateways,
            lock: None,
        })
    }

    /// The namespaces.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The root of a gateway.
    pub fn root(&self, side: Side) -> PathBuf {
        self.folder.join(side.gateway().name())
    }

    /// Makes what is missing, and ends what a crash has left of gateways. Gateways that run go on.
    pub fn build(&mut self) -> Result<(), LaboratoryError> {
        for gateway in &mut self.gateways {
            if !gateway.is_running() {
                gateway.stop();
            }
        }
        Ok(self.topology.build()?)
    }

    /// Whether both gateways are ready.
    pub fn is_ready(&self) -> bool {
        self.gateways.iter().all(Gateway::is_ready)
    }

    /// Starts both gateways with this path between them, and waits until both are ready.
    pub fn start_gateways(
        &mut self,
        path: configuration::Path,
        options: &RunOptions,
        interrupt: &Interrupt,
    ) -> Result<(), LaboratoryError> {
        self.start_gateways_from(|side| configuration(side, path), options, interrupt)
    }

    /// The same, with first configurations of one's choice.
    pub fn start_gateways_from(
        &mut self,
        first: impl Fn(Side) -> Value,
        options: &RunOptions,
        interrupt: &Interrupt,
    ) -> Result<(), LaboratoryError> {
        for (side, gateway) in Side::BOTH.into_iter().zip(&mut self.gateways) {
            let namespace = self
                .topology
                .open(side.gateway())
                .map_err(GatewayError::from)?;
            gateway.start(&namespace, &first(side), options)?;
        }
        for gateway in &mut self.gateways {
            gateway.wait_ready(interrupt)?;
        }
        Ok(())
    }

    /// Processor time that all processes of both gateways have used so far.
    pub fn processor_time(&self) -> Result<Duration, LaboratoryError> {
        let mut processes = BTreeMap::new();
        for (side, gateway) in Side::BOTH.into_iter().zip(&self.gateways) {
            let namespace = self
                .topology
                .open(side.gateway())
                .map_err(GatewayError::from)?;
            // charon knows nothing of a root, and the dataplane is in a namespace of its own.
            let inside = namespace.processes().map_err(GatewayError::from)?;
            let inside = inside.into_iter().filter_map(ProcessIdentity::of);
            for process in inside.chain(gateway.left_over()) {
                processes.insert(process.pid, process);
            }
        }
        Ok(processes
            .into_values()
            .filter_map(ProcessIdentity::processor_time)
            .sum())
    }

    /// Processor time that the dataplane of a gateway has used so far; `None` when there is none.
    pub fn dataplane_times(&self, side: Side) -> Option<ProcessorTimes> {
        let (_, gateway) = Side::BOTH
            .into_iter()
            .zip(&self.gateways)
            .find(|(of, _)| *of == side)?;
        let mut processes = gateway.left_over().into_iter();
        processes.find_map(|process| {
            let line = fs::read(format!("/proc/{}/cmdline", process.pid)).ok()?;
            let mut words = line.split(|byte| *byte == 0).skip(1);
            (words.next() == Some(b"dataplane".as_slice()))
                .then(|| process.processor_times())
                .flatten()
        })
    }

    /// Stops both gateways. Answers whether both stopped in order.
    pub fn stop_gateways(&mut self) -> bool {
        let [a, b] = &mut self.gateways;
        // Both at once: each waits for its own charon.
        std::thread::scope(|scope| {
            let other = scope.spawn(|| b.stop());
            let own = a.stop();
            other.join().unwrap_or(false) && own
        })
    }

    /// Stops and removes everything except the folder, whose logs and captures may be wanted.
    pub fn tear_down(&mut self) -> Result<(), LaboratoryError> {
        self.stop_gateways();
        Ok(self.topology.remove()?)
    }

    /// Removes the folder too.
    pub fn remove(mut self) -> Result<(), LaboratoryError> {
        self.tear_down()?;
        match fs::remove_dir_all(&self.folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(LaboratoryError::Folder {
                    path: self.folder,
                    source,
                })
            }
            _ => Ok(()),
        }
    }

    /// What is there.
    pub fn presence(&self) -> Presence {
        let present = self.topology.present();
        let (namespaces, missing): (Vec<Place>, Vec<Place>) = Place::ALL
            .into_iter()
            .partition(|place| present.contains(place));
        let names = |places: Vec<Place>| {
            places
                .into_iter()
                .map(|place| self.topology.name(place))
                .collect()
        };
        let [a, b] = &self.gateways;
        let state = |side: Side, gateway: &Gateway| {
            (
                side.gateway().name(),
                gateway.is_running(),
                gateway.is_ready(),
            )
        };
        let orphans = |gateway: &Gateway| {
            if gateway.is_running() {
                0
            } else {
                gateway.left_over().len()
            }
        };
        Presence {
            namespaces: names(namespaces),
            missing: names(missing),
            gateways: [state(Side::A, a), state(Side::B, b)],
            orphans: orphans(a) + orphans(b),
        }
    }
}
