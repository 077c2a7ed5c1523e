//! A file system for `SQLite` that writes down what is done to it, and can be told to fail.
//!
//! It passes everything to the default one, so the files are real; only opening, writing, truncating, syncing and
//! deleting go by way of here. It has no shared memory: what uses it must hold its database exclusively.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::mem::size_of;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Once;

use rusqlite::ffi;

use super::disk_log::{self, Event};

pub(super) const NAME: &str = "recording";
const C_NAME: &CStr = c"recording";

/// Which change of the disk fails, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    /// How many changes still succeed.
    pub(super) after: u32,
    /// How many fail then.
    pub(super) count: u32,
    /// What the failing ones answer.
    pub(super) code: c_int,
}

thread_local! {
    static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// Makes changes by this thread fail; none from now on without a fault.
pub(super) fn fail(fault: Option<Fault>) {
    FAULT.set(fault);
}

/// The code that the next change fails with.
fn failing() -> Option<c_int> {
    let mut fault = FAULT.get()?;
    let code = if fault.after > 0 {
        fault.after -= 1;
        None
    } else if fault.count > 0 {
        fault.count -= 1;
        Some(fault.code)
    } else {
        None
    };
    FAULT.set(Some(fault));
    code
}

/// What `SQLite` keeps for an open file; the default file system's own follows directly after it.
#[repr(C)]
struct RecordingFile {
    base: ffi::sqlite3_file,
    path: *mut PathBuf,
    /// The default file system syncs the directory with the first sync of a new log or journal.
    directory_unsynced: c_int,
    _aligned: c_int,
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// Makes the file system known to `SQLite`.
pub(super) fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the default VFS lives as long as the process; what is registered is a leaked copy of it with other
        // functions for opening and deleting, whose signatures are SQLite's.
        let code = unsafe {
            let mut vfs = *default_vfs();
            vfs.szOsFile += size_of::<RecordingFile>() as c_int;
            vfs.zName = C_NAME.as_ptr();
            vfs.pNext = ptr::null_mut();
            vfs.xOpen = Some(open);
            vfs.xDelete = Some(delete);
            ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0)
        };
        assert_eq!(code, ffi::SQLITE_OK);
    });
}

fn default_vfs() -> *mut ffi::sqlite3_vfs {
    // SAFETY: a null name asks for the default one, which there always is once the library is initialised.
    unsafe {
        ffi::sqlite3_initialize();
        ffi::sqlite3_vfs_find(ptr::null())
    }
}

/// The default file system's file behind ours.
fn real(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    file.cast::<RecordingFile>().wrapping_add(1).cast()
}

/// Calls the same method of the default file system.
macro_rules! pass {
    ($file:expr, $method:ident $(, $argument:expr)*) => {{
        let real = real($file);
        // SAFETY: SQLite calls a method only between open and close of the file, while `open` has filled in the
        // methods of the default file system's file behind ours; all of version 1 are there.
        unsafe { (*(*real).pMethods).$method.map_or(ffi::SQLITE_IOERR, |method| method(real $(, $argument)*)) }
    }};
}

fn path_of<'a>(file: *mut ffi::sqlite3_file) -> &'a Path {
    // SAFETY: `open` stored a leaked path, which only `close` frees; SQLite calls nothing after that.
    unsafe { &*(*file.cast::<RecordingFile>()).path }
}

unsafe extern "C" fn open(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // Temporary files have no name; the store keeps them in memory.
    if name.is_null() {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: a name is a C string.
    let path = PathBuf::from(OsStr::from_bytes(
        unsafe { CStr::from_ptr(name) }.to_bytes(),
    ));
    let is_new = !path.exists();
    let vfs = default_vfs();
    // SAFETY: SQLite gives `szOsFile` bytes, which hold ours and the default file system's; the other arguments are
    // passed on as they came. Ours is written before any method can be called.
    unsafe {
        (*file).pMethods = ptr::null();
        let code = (*vfs).xOpen.map_or(ffi::SQLITE_CANTOPEN, |open| {
            open(vfs, name, real(file), flags, out_flags)
        });
        if code != ffi::SQLITE_OK {
            return code;
        }
        if is_new {
            disk_log::created(&path);
        }
        let directory_unsynced = flags & ffi::SQLITE_OPEN_CREATE != 0
            && flags & (ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_MAIN_JOURNAL) != 0;
        file.cast::<RecordingFile>().write(RecordingFile {
            base: ffi::sqlite3_file {
                pMethods: &raw const METHODS,
            },
            path: Box::into_raw(Box::new(path)),
            directory_unsynced: c_int::from(directory_unsynced),
            _aligned: 0,
        });
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    sync_directory: c_int,
) -> c_int {
    if let Some(code) = failing() {
        return code;
    }
    let vfs = default_vfs();
    // SAFETY: the arguments are passed on as they came; a name is a C string.
    let (code, path) = unsafe {
        let code = (*vfs).xDelete.map_or(ffi::SQLITE_IOERR_DELETE, |delete| {
            delete(vfs, name, sync_directory)
        });
        (
            code,
            Path::new(OsStr::from_bytes(CStr::from_ptr(name).to_bytes())),
        )
    };
    if code == ffi::SQLITE_OK {
        disk_log::removed(path);
        if sync_directory != 0 {
            disk_log::synced_directory(path.parent().unwrap());
        }
    }
    code
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let code = pass!(file, xClose);
    // SAFETY: the path was leaked by `open`; SQLite closes once.
    drop(unsafe { Box::from_raw((*file.cast::<RecordingFile>()).path) });
    code
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    to: *mut c_void,
    count: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    pass!(file, xRead, to, count, offset)
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    count: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    if let Some(code) = failing() {
        return code;
    }
    let code = pass!(file, xWrite, from, count, offset);
    if code == ffi::SQLITE_OK {
        // SAFETY: SQLite gives `count` readable bytes.
        let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), count as usize) };
        disk_log::wrote(path_of(file), offset as u64, bytes);
    }
    code
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: ffi::sqlite3_int64) -> c_int {
    if let Some(code) = failing() {
        return code;
    }
    let code = pass!(file, xTruncate, size);
    if code == ffi::SQLITE_OK {
        disk_log::note(|| Event::Truncate(path_of(file).to_owned(), size as u64));
    }
    code
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    if let Some(code) = failing() {
        return code;
    }
    let code = pass!(file, xSync, flags);
    if code == ffi::SQLITE_OK {
        let path = path_of(file);
        disk_log::synced(path);
        // SAFETY: the file is open, and SQLite calls its methods one after the other.
        let ours = unsafe { &mut *file.cast::<RecordingFile>() };
        if ours.directory_unsynced != 0 {
            ours.directory_unsynced = 0;
            disk_log::synced_directory(path.parent().unwrap());
        }
    }
    code
}

unsafe extern "C" fn file_size(
    file: *mut ffi::sqlite3_file,
    size: *mut ffi::sqlite3_int64,
) -> c_int {
    pass!(file, xFileSize, size)
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    pass!(file, xLock, level)
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    pass!(file, xUnlock, level)
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, found: *mut c_int) -> c_int {
    pass!(file, xCheckReservedLock, found)
}

unsafe extern "C" fn file_control(
    file: *mut ffi::sqlite3_file,
    operation: c_int,
    argument: *mut c_void,
) -> c_int {
    pass!(file, xFileControl, operation, argument)
}

unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    pass!(file, xSectorSize)
}

unsafe extern "C" fn device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    pass!(file, xDeviceCharacteristics)
}
