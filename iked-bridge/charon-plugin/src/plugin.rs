//! The plugin object: what charon's loader asks for first.

#![allow(unsafe_code)]

use core::ffi::{c_char, c_int, c_void};
use core::ptr;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use culvert_plugin_wire::SOCKET_ENV;

use crate::abi_5_9_8 as abi;
use crate::charon::{Charon, CharonError};
use crate::client::{Client, Daemon};
use crate::kernel_ipsec;

/// Why the plugin, or its backend, does not start. charon's loader then ends charon, since the plugin is loaded with `!`.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Charon(#[from] CharonError),
    #[error("{SOCKET_ENV} is not set")]
    NoSocket,
    #[error("{SOCKET_ENV} is {0:?}, not an absolute path of at most 107 bytes")]
    BadSocket(PathBuf),
    #[error("no random numbers: {0}")]
    Random(std::io::Error),
    #[error("no thread: {0}")]
    Thread(std::io::Error),
}

/// What the backend's constructor needs: charon passes it no argument. One charon is one process.
struct Context {
    charon: Arc<Charon>,
    socket: PathBuf,
}

static CONTEXT: OnceLock<Context> = OnceLock::new();

/// Constructor of the plugin; the loader derives its name from that of the file.
///
/// Returns null, after a line on standard error, when this process is not the charon the plugin was built for.
#[unsafe(no_mangle)]
extern "C" fn culvert_plugin_create() -> *mut abi::Plugin {
    let created = catch_unwind(AssertUnwindSafe(|| match prepare() {
        Ok(context) => {
            let _ = CONTEXT.set(context);
            Box::into_raw(Box::new(abi::Plugin {
                get_name,
                get_features,
                reload,
                destroy,
            }))
        }
        Err(error) => {
            // charon's log may not be open yet, and may not be what was looked for at all.
            eprintln!("culvert: the plugin does not load: {error}");
            ptr::null_mut()
        }
    }));
    created.unwrap_or(ptr::null_mut())
}

fn prepare() -> Result<Context, StartError> {
    let charon = Arc::new(Charon::find()?);
    let socket = PathBuf::from(std::env::var_os(SOCKET_ENV).ok_or(StartError::NoSocket)?);
    // sun_path holds 108 bytes with its NUL.
    if !socket.is_absolute() || socket.as_os_str().len() > 107 {
        return Err(StartError::BadSocket(socket));
    }
    Ok(Context { charon, socket })
}

unsafe extern "C" fn get_name(_: *mut abi::Plugin) -> *const c_char {
    c"culvert".as_ptr()
}

/// A callback that registers the backend, then the name under which other plugins find it.
unsafe extern "C" fn get_features(
    _: *mut abi::Plugin,
    features: *mut *const abi::PluginFeature,
) -> c_int {
    let Some(context) = CONTEXT.get() else {
        return 0;
    };
    let constructor: unsafe extern "C" fn() -> *mut abi::KernelIpsec = create_backend;
    let list = [
        abi::PluginFeature {
            kind: abi::FEATURE_CALLBACK,
            feature_type: abi::FEATURE_NONE,
            argument: context.charon.kernel_ipsec_register,
            data: constructor as *const c_void,
        },
        abi::PluginFeature {
            kind: abi::FEATURE_PROVIDE,
            feature_type: abi::FEATURE_CUSTOM,
            argument: c"kernel-ipsec".as_ptr().cast(),
            data: ptr::null(),
        },
    ];
    let Ok(count) = c_int::try_from(list.len()) else {
        return 0;
    };
    // The loader keeps pointers to the features for its whole life, and asks once.
    let list: &'static [abi::PluginFeature] = Box::leak(Box::new(list));
    // SAFETY: charon passes a place for the pointer.
    unsafe { *features = list.as_ptr() };
    count
}

unsafe extern "C" fn reload(_: *mut abi::Plugin) -> bool {
    false
}

unsafe extern "C" fn destroy(this: *mut abi::Plugin) {
    // SAFETY: charon destroys what the constructor made, once.
    drop(unsafe { Box::from_raw(this) });
}

/// Constructor of the backend, called by charon when it registers it.
unsafe extern "C" fn create_backend() -> *mut abi::KernelIpsec {
    let created = catch_unwind(AssertUnwindSafe(|| {
        let Some(context) = CONTEXT.get() else {
            return ptr::null_mut();
        };
        match start(context) {
            Ok(backend) => backend,
            Err(error) => {
                context
                    .charon
                    .log(&format!("the backend does not start: {error}"));
                ptr::null_mut()
            }
        }
    }));
    created.unwrap_or(ptr::null_mut())
}

fn start(context: &Context) -> Result<*mut abi::KernelIpsec, StartError> {
    let daemon: Arc<dyn Daemon> = context.charon.clone();
    let client = Client::new(
        context.socket.clone(),
        random_epoch()?,
        abi::VERSION,
        Arc::clone(&daemon),
    );
    with_signals_blocked(|| client.start()).map_err(StartError::Thread)?;
    Ok(kernel_ipsec::create(client, daemon))
}

fn random_epoch() -> Result<u64, StartError> {
    let mut bytes = [0_u8; 8];
    // SAFETY: the buffer is as long as it is said to be.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(count) == Ok(bytes.len()) {
        Ok(u64::from_ne_bytes(bytes))
    } else {
        Err(StartError::Random(std::io::Error::last_os_error()))
    }
}

/// Runs `work` with every signal blocked, so that threads it starts never take one: charon waits for its signals in its
/// main thread, and masks them only after the plugins are loaded.
fn with_signals_blocked<T>(work: impl FnOnce() -> T) -> T {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are places for a set; the first is filled before it is read, the second is read only when the
    // call that fills it succeeded.
    let masked = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) == 0
    };
    let result = work();
    if masked {
        // SAFETY: filled by the call above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    }
    result
}
