//! The bus over real Unix sockets.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod binding;
mod publish_subscribe;
mod request_reply;

use std::path::PathBuf;
use std::time::Duration;

use culvert_bus::{Context, Router};
use culvert_model::bus::{
    InitiateReply, InitiateRequest, RekeyReply, RekeyRequest, ShowNeighboursReply,
    ShowNeighboursRequest, TerminateReply, TerminateRequest, refusal,
};

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(200);

/// A folder for sockets, with a path for one in it.
fn socket() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    (folder, path)
}

/// Rekey: waits as many milliseconds as `ike` says, then answers with the number in `child`.
fn rekey(ike: u64, child: u32) -> RekeyRequest {
    RekeyRequest {
        ike: ike.to_string(),
        child: child.to_string(),
    }
}

/// A process with four odd methods.
fn router() -> Router {
    Router::new("test")
        .on(|request: RekeyRequest, _: Context| async move {
            tokio::time::sleep(Duration::from_millis(request.ike.parse().unwrap())).await;
            Ok(RekeyReply {
                matches: request.child.parse().unwrap(),
            })
        })
        .on(|_: ShowNeighboursRequest, _| async move { Ok(ShowNeighboursReply::default()) })
        .on(|_: TerminateRequest, _| async move { terminate() })
        .on(|_: InitiateRequest, _| async move {
            Err::<InitiateReply, _>(culvert_bus::refuse(
                refusal::Code::NotFound,
                "no such child",
            ))
        })
}

fn terminate() -> Result<TerminateReply, culvert_model::bus::Refusal> {
    panic!("a handler that fails")
}
