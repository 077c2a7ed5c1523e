//! `kernel_ipsec_t`: one function for each thing that charon asks of its IPsec backend.
//!
//! Each reads charon's arguments into a message, waits for the answer and turns it into a `status_t`. No panic crosses
//! into C: [`guarded`] ends it at the border and the call fails.

#![allow(unsafe_code)]

use core::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use culvert_plugin_wire as wire;
use wire::{Answer, Call, Status};

use crate::abi_5_9_8::{self as abi, status};
use crate::client::{CALL_TIMEOUT, Client, Daemon, QUERY_TIMEOUT, WhenAway};
use crate::translate;

/// The object charon gets. The function table comes first: charon's pointer to it is a pointer to this.
#[repr(C)]
struct Backend {
    table: abi::KernelIpsec,
    client: Arc<Client>,
    daemon: Arc<dyn Daemon>,
}

/// Makes the object. charon gives it back to [`destroy`].
pub(crate) fn create(client: Arc<Client>, daemon: Arc<dyn Daemon>) -> *mut abi::KernelIpsec {
    let table = abi::KernelIpsec {
        get_features,
        get_spi,
        get_cpi,
        add_sa,
        update_sa,
        query_sa,
        del_sa,
        flush_sas,
        add_policy,
        query_policy,
        del_policy,
        flush_policies,
        bypass_socket,
        enable_udp_decap,
        destroy,
    };
    Box::into_raw(Box::new(Backend {
        table,
        client,
        daemon,
    }))
    .cast()
}

impl Backend {
    /// Makes a call that has no value, and logs why it failed.
    fn ask(&self, name: &str, call: Call, when_away: WhenAway) -> i32 {
        match self.client.call(call, CALL_TIMEOUT, when_away) {
            Ok(Answer::Done(_)) => status::SUCCESS,
            other => self.failed(name, other),
        }
    }

    fn failed(&self, name: &str, answer: Result<Answer, crate::client::CallError>) -> i32 {
        match answer {
            Ok(Answer::Failed(failed)) => {
                self.daemon
                    .log(&format!("{name} failed: {}", failed.message));
                match Status::try_from(failed.status) {
                    Ok(Status::Unspecified) | Err(_) => status::FAILED,
                    Ok(known) => known.into(),
                }
            }
            Ok(_) => {
                self.daemon
                    .log(&format!("{name} got an answer of the wrong kind"));
                status::FAILED
            }
            Err(error) => {
                self.daemon.log(&format!("{name} failed: {error}"));
                status::FAILED
            }
        }
    }
}

/// Runs one function of the table with the object behind charon's pointer.
///
/// # Safety
/// `this` came from [`create`] and was not destroyed.
unsafe fn guarded(this: *mut abi::KernelIpsec, work: impl FnOnce(&Backend) -> i32) -> i32 {
    // SAFETY: by the caller; the table is the first field of a `repr(C)` structure.
    let backend = unsafe { &*this.cast::<Backend>() };
    catch_unwind(AssertUnwindSafe(|| work(backend))).unwrap_or(status::FAILED)
}

unsafe extern "C" fn get_features(_: *mut abi::KernelIpsec) -> i32 {
    abi::KERNEL_FEATURES
}

unsafe extern "C" fn get_spi(
    this: *mut abi::KernelIpsec,
    src: *mut abi::Host,
    dst: *mut abi::Host,
    protocol: u8,
    spi: *mut u32,
) -> i32 {
    // SAFETY: charon passes live hosts and a place for the SPI.
    unsafe {
        guarded(this, |backend| {
            let call = wire::GetSpi {
                src: translate::host(src),
                dst: translate::host(dst),
                protocol: protocol.into(),
            };
            match backend
                .client
                .call(Call::GetSpi(call), CALL_TIMEOUT, WhenAway::Wait)
            {
                Ok(Answer::Spi(allocated)) => {
                    *spi = allocated.spi.to_be();
                    status::SUCCESS
                }
                other => backend.failed("get_spi", other),
            }
        })
    }
}

unsafe extern "C" fn get_cpi(
    _: *mut abi::KernelIpsec,
    _: *mut abi::Host,
    _: *mut abi::Host,
    _: *mut u16,
) -> i32 {
    status::NOT_SUPPORTED
}

unsafe extern "C" fn add_sa(
    this: *mut abi::KernelIpsec,
    id: *mut abi::SaId,
    data: *mut abi::AddSa,
) -> i32 {
    // SAFETY: charon passes live structures.
    unsafe {
        guarded(this, |backend| match translate::add_sa(id, data) {
            Some(call) => backend.ask("add_sa", Call::AddSa(call), WhenAway::Wait),
            None => status::INVALID_ARG,
        })
    }
}

unsafe extern "C" fn update_sa(
    this: *mut abi::KernelIpsec,
    id: *mut abi::SaId,
    data: *mut abi::UpdateSa,
) -> i32 {
    // SAFETY: charon passes live structures.
    unsafe {
        guarded(this, |backend| match translate::update_sa(id, data) {
            Some(call) => backend.ask("update_sa", Call::UpdateSa(call), WhenAway::Wait),
            None => status::INVALID_ARG,
        })
    }
}

unsafe extern "C" fn query_sa(
    this: *mut abi::KernelIpsec,
    id: *mut abi::SaId,
    _: *mut c_void,
    bytes: *mut u64,
    packets: *mut u64,
    time: *mut i64,
) -> i32 {
    // SAFETY: charon passes a live structure and places for the values, or null for those it does not want.
    unsafe {
        guarded(this, |backend| {
            let Some(id) = translate::sa_id(id) else {
                return status::INVALID_ARG;
            };
            let call = Call::QuerySa(wire::QuerySa { id: Some(id) });
            match backend.client.call(call, QUERY_TIMEOUT, WhenAway::Fail) {
                Ok(Answer::Usage(usage)) => {
                    if let Some(bytes) = bytes.as_mut() {
                        *bytes = usage.bytes;
                    }
                    if let Some(packets) = packets.as_mut() {
                        *packets = usage.packets;
                    }
                    if let Some(time) = time.as_mut() {
                        *time = i64::try_from(usage.use_time).unwrap_or(i64::MAX);
                    }
                    status::SUCCESS
                }
                // Asked again and again: not worth a line each.
                _ => status::FAILED,
            }
        })
    }
}

unsafe extern "C" fn del_sa(
    this: *mut abi::KernelIpsec,
    id: *mut abi::SaId,
    _: *mut c_void,
) -> i32 {
    // SAFETY: charon passes a live structure.
    unsafe {
        guarded(this, |backend| match translate::sa_id(id) {
            Some(id) => backend.ask(
                "del_sa",
                Call::DelSa(wire::DelSa { id: Some(id) }),
                WhenAway::Remember,
            ),
            None => status::INVALID_ARG,
        })
    }
}

unsafe extern "C" fn flush_sas(this: *mut abi::KernelIpsec) -> i32 {
    // SAFETY: charon passes its object.
    unsafe {
        guarded(this, |backend| {
            backend.ask(
                "flush_sas",
                Call::FlushSas(wire::FlushSas {}),
                WhenAway::Remember,
            )
        })
    }
}

unsafe extern "C" fn add_policy(
    this: *mut abi::KernelIpsec,
    id: *mut abi::PolicyId,
    data: *mut abi::ManagePolicy,
) -> i32 {
    // SAFETY: charon passes live structures.
    unsafe {
        guarded(this, |backend| {
            let (Some(id), Some(manage)) =
                (translate::policy_id(id), translate::manage_policy(data))
            else {
                return status::INVALID_ARG;
            };
            let call = Call::AddPolicy(wire::AddPolicy {
                id: Some(id),
                manage: Some(manage),
            });
            backend.ask("add_policy", call, WhenAway::Wait)
        })
    }
}

unsafe extern "C" fn query_policy(
    _: *mut abi::KernelIpsec,
    _: *mut abi::PolicyId,
    _: *mut c_void,
    _: *mut i64,
) -> i32 {
    status::NOT_SUPPORTED
}

unsafe extern "C" fn del_policy(
    this: *mut abi::KernelIpsec,
    id: *mut abi::PolicyId,
    data: *mut abi::ManagePolicy,
) -> i32 {
    // SAFETY: charon passes live structures.
    unsafe {
        guarded(this, |backend| {
            let (Some(id), Some(manage)) =
                (translate::policy_id(id), translate::manage_policy(data))
            else {
                return status::INVALID_ARG;
            };
            let call = Call::DelPolicy(wire::DelPolicy {
                id: Some(id),
                manage: Some(manage),
            });
            backend.ask("del_policy", call, WhenAway::Remember)
        })
    }
}

unsafe extern "C" fn flush_policies(this: *mut abi::KernelIpsec) -> i32 {
    // SAFETY: charon passes its object.
    unsafe {
        guarded(this, |backend| {
            backend.ask(
                "flush_policies",
                Call::FlushPolicies(wire::FlushPolicies {}),
                WhenAway::Remember,
            )
        })
    }
}

/// IKE's own packets never meet a policy: the dataplane takes them out before.
unsafe extern "C" fn bypass_socket(_: *mut abi::KernelIpsec, _: c_int, _: c_int) -> bool {
    true
}

/// The dataplane decapsulates; what reaches charon's socket on 4500 is IKE.
unsafe extern "C" fn enable_udp_decap(
    _: *mut abi::KernelIpsec,
    _: c_int,
    _: c_int,
    _: u16,
) -> bool {
    true
}

unsafe extern "C" fn destroy(this: *mut abi::KernelIpsec) {
    // SAFETY: charon destroys what `create` made once, after its last call.
    let backend = unsafe { Box::from_raw(this.cast::<Backend>()) };
    let _ = catch_unwind(AssertUnwindSafe(|| backend.client.close()));
}
