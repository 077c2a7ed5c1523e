//! Installs, changes and removes SAs and policies on the control thread.
//!
//! Installing is create-only: an SA that is there already with the same keys is left as it is (the request was
//! repeated because its answer was lost), and keys that this process has encrypted with once are never taken again,
//! for a counter that starts anew would repeat nonces (RFC 4106 section 2, RFC 7634 section 2).

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use culvert_crypto::{Engine, IdentityKey, KeyError, KeyIdentity, KeyMaterial, ReplayWindow};
use culvert_net::Selector;
use thiserror::Error;

use super::SaTables;
use super::association::{Endpoints, Sa, SaState, Usage};
use super::order::{self, Configured};
use super::outer::UdpPorts;
use super::policy::{OutPolicy, PolicyAction, PolicySet};
use super::spec::{SaDirection, SaKeyId, SaSpec, SpecError};

/// SAs that one box holds: 10,000 tunnels in a rekey, and as many again.
const MAX_SAS: usize = 1 << 16;
/// Policies that one box holds.
const MAX_POLICIES: usize = 1 << 17;

/// Key of the fingerprints of test builds: the same in every process, so that both ends of an SA show the same.
#[cfg(feature = "fingerprint")]
const FINGERPRINT_KEY: [u8; 32] = *b"culvert test builds show no keys";

/// Why a request about an SA or a policy was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SaError {
    /// The request makes no sense.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Another SA has that name.
    #[error("{0} exists with other keys or parameters")]
    Exists(SaKeyId),
    /// These keys were used before.
    #[error("{0}: these keys were installed before; a new SA needs new keys")]
    KeysUsed(SaKeyId),
    /// There is no such SA.
    #[error("{0} does not exist")]
    NoSa(SaKeyId),
    /// There is no such policy.
    #[error("there is no such policy")]
    NoPolicy,
    /// The table is full.
    #[error("{0} entries are the limit of this table")]
    Full(usize),
}

/// Which policy: charon knows it by direction, interface, selector and SPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PolicyId {
    /// Outbound, the only kind that chooses; inbound ones are kept for the dump: the SA's own selectors decide.
    pub outbound: bool,
    /// For packets that are forwarded after decryption.
    pub forward: bool,
    /// The tunnel interface.
    pub if_id: u32,
    /// Which packets.
    pub selector: Selector,
    /// The SA; 0 for a trap.
    pub spi: u32,
}

impl PolicyId {
    /// It says what must not come in the clear.
    fn is_gate(&self) -> bool {
        !self.outbound && !self.forward && self.if_id == 0
    }
}

/// What the configuration holds under one name.
struct Standing {
    configured: Configured,
    /// The number of each, with its selector.
    numbers: Vec<(Selector, u32)>,
}

/// A guard as an event names it.
fn guard(selector: Selector) -> PolicySpec {
    PolicySpec {
        id: PolicyId {
            outbound: true,
            forward: false,
            if_id: 0,
            selector,
            spi: 0,
        },
        action: PolicyAction::Protect,
        priority: 0,
        reqid: 0,
        tunnel: None,
    }
}

fn policy_set(tables: &SaTables, if_id: u32) -> PolicySet {
    let held = tables.policies.get(if_id);
    held.map_or_else(PolicySet::default, |set| PolicySet::clone(set))
}

/// What a policy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicySpec {
    /// What names it.
    pub id: PolicyId,
    /// What is done.
    pub action: PolicyAction,
    /// Lower comes first.
    pub priority: u32,
    /// charon's number for policy and SA together.
    pub reqid: u32,
    /// Ends of the tunnel that it asks for.
    pub tunnel: Option<(IpAddr, IpAddr)>,
}

/// The control thread's side of [`SaTables`].
pub struct SaManager {
    engine: Arc<dyn Engine>,
    by_id: HashMap<SaKeyId, u32>,
    /// Outbound SAs by `if_id` and SPI, as policies name them.
    outbound: HashMap<u32, BTreeMap<u32, u32>>,
    free: BTreeSet<u32>,
    next: u32,
    policies: HashMap<PolicyId, (u32, PolicySpec)>,
    /// The outbound ones by `if_id` and SPI.
    protected: HashMap<(u32, u32), HashSet<PolicyId>>,
    /// What events name policies by.
    numbers: HashMap<u32, PolicyId>,
    /// Those of the configuration, by name.
    configured: BTreeMap<String, Standing>,
    /// What events name guards by: as charon's policies, though charon has none.
    guards: HashMap<u32, PolicySpec>,
    next_policy: u32,
    identities: IdentityKey,
    keys: HashMap<SaKeyId, KeyIdentity>,
    used: HashSet<KeyIdentity>,
}

impl SaManager {
    /// With no SA and no policy.
    pub fn new(engine: Arc<dyn Engine>) -> Result<Self, KeyError> {
        Ok(Self {
            engine,
            by_id: HashMap::new(),
            outbound: HashMap::new(),
            free: BTreeSet::new(),
            next: 0,
            policies: HashMap::new(),
            protected: HashMap::new(),
            numbers: HashMap::new(),
            configured: BTreeMap::new(),
            guards: HashMap::new(),
            next_policy: 1,
            identities: IdentityKey::random()?,
            keys: HashMap::new(),
            used: HashSet::new(),
        })
    }

    /// Installs an SA; gives its index. Keys are expanded here, once.
    pub fn add(
        &mut self,
        tables: &mut SaTables,
        spec: SaSpec,
        encryption_key: &[u8],
        integrity_key: &[u8],
    ) -> Result<u32, SaError> {
        let id = spec.id;
        let material = KeyMaterial {
            suite: spec.suite,
            encryption: encryption_key,
            integrity: integrity_key,
            esn: spec.esn,
        };
        let identity = material.identity(&self.identities);
        if let Some(index) = self.find(tables, id) {
            return if self.keys.get(&id) == Some(&identity) {
                Ok(index)
            } else {
                Err(SaError::Exists(id))
            };
        }
        if self.by_id.len() >= MAX_SAS {
            return Err(SaError::Full(MAX_SAS));
        }
        if id.direction == SaDirection::Out && self.used.contains(&identity) {
            return Err(SaError::KeysUsed(id));
        }
        tables.looks_at_ports |= spec.selectors.iter().any(Selector::looks_at_ports);
        let key = self.engine.key(&material).map_err(SpecError::Key)?;
        let window = ReplayWindow::new(spec.replay_window, spec.esn);
        let state = SaState::new(&spec, key, window);
        #[cfg(feature = "fingerprint")]
        let state = state.with_fingerprint(material.fingerprint(&FINGERPRINT_KEY).0);
        let state = Arc::new(state);
        let endpoints = Endpoints {
            source: spec.source,
            destination: id.destination,
            udp: spec.udp,
        };
        let index = self.free.first().copied().unwrap_or(self.next);
        let if_id = spec.if_id;
        let sa = Sa::new(index, Arc::new(spec), endpoints, state).ok_or(SpecError::Family)?;
        if !self.free.remove(&index) {
            self.next += 1;
        }
        tables.sas.set(index, Some(Arc::new(sa)));
        self.by_id.insert(id, index);
        self.keys.insert(id, identity);
        match id.direction {
            SaDirection::In => {
                tables.inbound.set(id.spi.get(), Some(index));
            }
            SaDirection::Out => {
                self.used.insert(identity);
                let of_tunnel = self.outbound.entry(if_id).or_default();
                of_tunnel.insert(id.spi.get(), index);
                self.resolve(tables, if_id, id.spi.get(), Some(index));
            }
        }
        Ok(index)
    }

    /// Moves an SA to other addresses or ports, with its keys, sequence and window as they are.
    pub fn update(
        &mut self,
        tables: &mut SaTables,
        id: SaKeyId,
        source: IpAddr,
        destination: IpAddr,
        udp: Option<UdpPorts>,
    ) -> Result<(), SaError> {
        let index = self.find(tables, id).ok_or(SaError::NoSa(id))?;
        let old = tables.sas.get(index).ok_or(SaError::NoSa(id))?;
        let mut spec = SaSpec::clone(&old.spec);
        let stored = spec.id;
        spec.id.destination = destination;
        (spec.source, spec.udp) = (source, udp);
        if stored != spec.id && self.by_id.contains_key(&spec.id) {
            return Err(SaError::Exists(spec.id));
        }
        let endpoints = Endpoints {
            source,
            destination,
            udp,
        };
        let renamed = spec.id;
        let sa = Sa::new(index, Arc::new(spec), endpoints, Arc::clone(&old.state))
            .ok_or(SpecError::Family)?;
        tables.sas.set(index, Some(Arc::new(sa)));
        self.by_id.remove(&stored);
        self.by_id.insert(renamed, index);
        if let Some(identity) = self.keys.remove(&stored) {
            self.keys.insert(renamed, identity);
        }
        Ok(())
    }

    /// Removes an SA; gives what it carried.
    pub fn delete(&mut self, tables: &mut SaTables, id: SaKeyId) -> Result<Usage, SaError> {
        let index = self.find(tables, id).ok_or(SaError::NoSa(id))?;
        let sa = tables.sas.set(index, None).ok_or(SaError::NoSa(id))?;
        sa.state.kill();
        let id = sa.spec.id;
        self.by_id.remove(&id);
        self.keys.remove(&id);
        self.free.insert(index);
        match id.direction {
            SaDirection::In => {
                tables.inbound.set(id.spi.get(), None);
            }
            SaDirection::Out => {
                if let Entry::Occupied(mut of_tunnel) = self.outbound.entry(sa.spec.if_id) {
                    of_tunnel.get_mut().remove(&id.spi.get());
                    if of_tunnel.get().is_empty() {
                        of_tunnel.remove();
                    }
                }
                self.resolve(tables, sa.spec.if_id, id.spi.get(), None);
            }
        }
        Ok(sa.state.usage())
    }

    /// The SA of that name.
    pub fn get<'t>(&self, tables: &'t SaTables, id: SaKeyId) -> Option<&'t Arc<Sa>> {
        tables.sas.get(self.find(tables, id)?)
    }

    /// An inbound SA is named by its SPI alone: after an address update it still answers to its old destination.
    fn find(&self, tables: &SaTables, id: SaKeyId) -> Option<u32> {
        match id.direction {
            SaDirection::In => tables.inbound.get(id.spi.get()).copied(),
            SaDirection::Out => self.by_id.get(&id).copied(),
        }
    }

    /// Installs a policy. One that is there already takes the new action and priority.
    pub fn add_policy(&mut self, tables: &mut SaTables, spec: PolicySpec) -> Result<(), SaError> {
        if self.policies.contains_key(&spec.id) {
            self.delete_policy(tables, spec.id)?;
        }
        if self.policies.len() >= MAX_POLICIES {
            return Err(SaError::Full(MAX_POLICIES));
        }
        tables.looks_at_ports |= spec.id.selector.looks_at_ports();
        let number = self.number();
        let priority = order::negotiated(spec.id.if_id, spec.priority, &spec.id.selector);
        if spec.id.outbound {
            let of_tunnel = self.outbound.get(&spec.id.if_id);
            let sa = of_tunnel.and_then(|sas| sas.get(&spec.id.spi)).copied();
            let mut set = policy_set(tables, spec.id.if_id);
            set.insert(OutPolicy {
                number,
                selector: spec.id.selector,
                action: spec.action,
                priority,
                spi: spec.id.spi,
                sa,
                reqid: spec.reqid,
            });
            tables.policies.set(spec.id.if_id, Some(Arc::new(set)));
            let name = (spec.id.if_id, spec.id.spi);
            self.protected.entry(name).or_default().insert(spec.id);
        } else if spec.id.is_gate() {
            tables.inbound_policies.insert(OutPolicy {
                number,
                selector: spec.id.selector,
                action: spec.action,
                priority,
                spi: spec.id.spi,
                sa: None,
                reqid: spec.reqid,
            });
        }
        self.policies.insert(spec.id, (number, spec));
        self.numbers.insert(number, spec.id);
        Ok(())
    }

    /// Removes a policy.
    pub fn delete_policy(&mut self, tables: &mut SaTables, id: PolicyId) -> Result<(), SaError> {
        let (number, _) = self.policies.remove(&id).ok_or(SaError::NoPolicy)?;
        self.numbers.remove(&number);
        if let Entry::Occupied(mut protected) = self.protected.entry((id.if_id, id.spi)) {
            protected.get_mut().remove(&id);
            if protected.get().is_empty() {
                protected.remove();
            }
        }
        if id.outbound
            && let Some(set) = tables.policies.get(id.if_id)
        {
            let mut set = PolicySet::clone(set);
            set.remove(&id.selector, number);
            let rest = (!set.is_empty()).then(|| Arc::new(set));
            tables.policies.set(id.if_id, rest);
        }
        if id.is_gate() {
            tables.inbound_policies.remove(&id.selector, number);
        }
        Ok(())
    }

    /// Puts what the configuration holds under a name in the place of what it held before; with nothing, takes it away.
    /// It stands by itself, without charon, and outlives [`SaManager::flush`].
    pub fn configure(
        &mut self,
        tables: &mut SaTables,
        name: &str,
        configured: Option<&Configured>,
    ) -> Result<(), SaError> {
        let count = |standing: &Standing| standing.numbers.len();
        let before = self.configured.get(name).map_or(0, count);
        let others = self.configured.values().map(count).sum::<usize>() - before;
        if others + configured.map_or(0, Configured::count) > MAX_POLICIES {
            return Err(SaError::Full(MAX_POLICIES));
        }
        if let Some(old) = self.configured.remove(name) {
            self.withdraw(tables, &old);
        }
        if let Some(configured) = configured {
            let standing = self.stand(tables, configured.clone());
            self.configured.insert(name.to_owned(), standing);
        }
        Ok(())
    }

    fn stand(&mut self, tables: &mut SaTables, configured: Configured) -> Standing {
        let mut outbound = policy_set(tables, 0);
        let mut numbers = Vec::with_capacity(configured.count());
        for (selector, action, priority) in configured.all() {
            let number = self.number();
            numbers.push((selector, number));
            tables.looks_at_ports |= selector.looks_at_ports();
            let policy = OutPolicy {
                number,
                selector,
                action,
                priority,
                spi: 0,
                sa: None,
                reqid: 0,
            };
            if action == PolicyAction::Protect {
                self.guards.insert(number, guard(selector));
            }
            tables.inbound_policies.insert(OutPolicy {
                selector: selector.reversed(),
                ..policy.clone()
            });
            outbound.insert(policy);
        }
        tables.policies.set(0, Some(Arc::new(outbound)));
        Standing {
            configured,
            numbers,
        }
    }

    fn withdraw(&mut self, tables: &mut SaTables, standing: &Standing) {
        let mut outbound = policy_set(tables, 0);
        for (selector, number) in &standing.numbers {
            self.guards.remove(number);
            outbound.remove(selector, *number);
            let reversed = selector.reversed();
            tables.inbound_policies.remove(&reversed, *number);
        }
        let rest = (!outbound.is_empty()).then(|| Arc::new(outbound));
        tables.policies.set(0, rest);
    }

    fn number(&mut self) -> u32 {
        self.next_policy += 1;
        self.next_policy - 1
    }

    /// The indexes of the outbound SAs that policies of this `if_id` name.
    pub fn in_use(&self, if_id: u32) -> impl Iterator<Item = u32> {
        self.outbound
            .get(&if_id)
            .into_iter()
            .flatten()
            .filter(move |(spi, _)| self.protected.contains_key(&(if_id, **spi)))
            .map(|(_, index)| *index)
    }

    /// The policy that an acquire names.
    pub fn policy(&self, number: u32) -> Option<&PolicySpec> {
        match self.numbers.get(&number) {
            Some(id) => self.policies.get(id).map(|(_, spec)| spec),
            None => self.guards.get(&number),
        }
    }

    /// All policies.
    pub fn policies(&self) -> impl Iterator<Item = &PolicySpec> {
        self.policies.values().map(|(_, spec)| spec)
    }

    /// Removes everything; gives how many SAs and policies there were. Used keys stay used.
    pub fn flush(&mut self, tables: &mut SaTables) -> (usize, usize) {
        let counts = (self.by_id.len(), self.policies.len());
        for (_, sa) in tables.sas.iter() {
            sa.state.kill();
        }
        *tables = SaTables {
            tunnels: tables.tunnels.clone(),
            ..SaTables::default()
        };
        self.by_id.clear();
        self.outbound.clear();
        self.keys.clear();
        self.policies.clear();
        self.protected.clear();
        self.numbers.clear();
        self.free.clear();
        self.guards.clear();
        for (name, standing) in std::mem::take(&mut self.configured) {
            let standing = self.stand(tables, standing.configured);
            self.configured.insert(name, standing);
        }
        self.next = 0;
        counts
    }

    /// Tells the policies of an SA where it is now.
    fn resolve(&self, tables: &mut SaTables, if_id: u32, spi: u32, sa: Option<u32>) {
        let (Some(protected), Some(set)) = (
            self.protected.get(&(if_id, spi)),
            tables.policies.get(if_id),
        ) else {
            return;
        };
        let mut set = PolicySet::clone(set);
        for policy in protected {
            set.resolve(&policy.selector, spi, sa);
        }
        tables.policies.set(if_id, Some(Arc::new(set)));
    }
}
