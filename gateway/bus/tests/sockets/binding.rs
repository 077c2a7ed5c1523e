//! Socket files: who may have them, and what is left of them.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use culvert_bus::{BusError, Client, Publisher, Server};
use culvert_model::bus::{SaEvent, ShowNeighboursRequest};
use nng::options::protocol::pubsub::Subscribe;
use nng::options::{Options, RecvTimeout};
use nng::{Protocol, Socket};

use crate::{LONG, router, socket};

#[tokio::test]
async fn the_owner_alone_may_connect() {
    let (_folder, path) = socket();
    let _running = Server::bind(&path, router()).unwrap().spawn().unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn the_file_goes_with_its_server() {
    let (_folder, path) = socket();
    let running = Server::bind(&path, router()).unwrap().spawn().unwrap();
    assert!(path.exists());
    running.stop().await;
    assert!(!path.exists());

    let publisher = Publisher::<SaEvent>::bind(&path).unwrap();
    assert!(path.exists());
    publisher.close().await;
    assert!(!path.exists());
    drop(Publisher::<SaEvent>::bind(&path).unwrap());
    assert!(!path.exists());
}

#[tokio::test]
async fn a_dropped_server_stops() {
    let (_folder, path) = socket();
    drop(Server::bind(&path, router()).unwrap().spawn().unwrap());
    for _ in 0..100 {
        if !path.exists() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{path:?} is still there");
}

#[tokio::test]
async fn the_file_of_a_dead_process_is_replaced() {
    let (_folder, path) = socket();
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _running = Server::bind(&path, router()).unwrap().spawn().unwrap();
    let client = Client::new(&path).unwrap();
    client.call(&ShowNeighboursRequest {}, LONG).await.unwrap();
}

#[tokio::test]
async fn a_living_one_is_refused() {
    let (_folder, path) = socket();
    let _first = Server::bind(&path, router()).unwrap().spawn().unwrap();
    let second = Server::bind(&path, router());
    assert!(matches!(second, Err(BusError::InUse { .. })), "{second:?}");
    let client = Client::new(&path).unwrap();
    client.call(&ShowNeighboursRequest {}, LONG).await.unwrap();
}

/// Without a message a follower dials again.
const REDIAL: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_server_hears_on_after_clients_that_vanished() {
    let (_folder, path) = socket();
    let _running = Server::bind(&path, router()).unwrap().spawn().unwrap();
    let before = Client::new(&path).unwrap();
    before.call(&ShowNeighboursRequest {}, LONG).await.unwrap();
    let publisher_path = path.with_extension("events");
    let _publisher = Publisher::<SaEvent>::bind(&publisher_path).unwrap();
    for _ in 0..3 {
        for path in [&path, &publisher_path] {
            for _ in 0..20 {
                drop(UnixStream::connect(path).unwrap());
            }
        }
        let after = Client::new(&path).unwrap();
        after.call(&ShowNeighboursRequest {}, LONG).await.unwrap();
        before.call(&ShowNeighboursRequest {}, LONG).await.unwrap();
        // NNG's dialler gives up for good if the listener is hung anew at the wrong moment: followers dial anew.
        let url = format!("ipc://{}", publisher_path.display());
        let hears = move || {
            let follower = Socket::new(Protocol::Sub0).unwrap();
            follower.set_opt::<Subscribe>(vec![]).unwrap();
            follower.set_opt::<RecvTimeout>(Some(REDIAL)).unwrap();
            follower.dial_async(&url).unwrap();
            follower.recv().is_ok()
        };
        let following = tokio::task::spawn_blocking(move || (0..5).any(|_| hears()));
        assert!(following.await.unwrap());
    }
}

#[tokio::test]
async fn a_client_goes_on_after_servers_that_vanished() {
    let (_folder, path) = socket();
    let listener = UnixListener::bind(&path).unwrap();
    let client = Client::new(&path).unwrap();
    let caller = client.clone();
    let call = tokio::spawn(async move { caller.call(&ShowNeighboursRequest {}, LONG).await });
    tokio::task::spawn_blocking(move || {
        for _ in 0..2 {
            drop(listener.accept().unwrap());
        }
    })
    .await
    .unwrap();
    let _running = Server::bind(&path, router()).unwrap().spawn().unwrap();
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_no_socket_stays() {
    let (_folder, path) = socket();
    std::fs::write(&path, "precious").unwrap();
    let server = Server::bind(&path, router());
    assert!(
        matches!(server, Err(BusError::NotASocket { .. })),
        "{server:?}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_missing_folder_is_named() {
    let (folder, _) = socket();
    let path = folder.path().join("none/bus");
    match Server::bind(&path, router()) {
        Err(BusError::File {
            path: named,
            source,
        }) => {
            assert_eq!(named, path);
            assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_long_path_is_refused_on_both_sides() {
    let (folder, _) = socket();
    let path = folder.path().join("x".repeat(100));
    assert!(matches!(
        Server::bind(&path, router()),
        Err(BusError::PathTooLong { .. })
    ));
    assert!(matches!(
        Client::new(&path),
        Err(BusError::PathTooLong { .. })
    ));
    assert!(matches!(
        Publisher::<SaEvent>::bind(&path),
        Err(BusError::PathTooLong { .. })
    ));
}

#[test]
fn without_a_runtime_nothing_is_started() {
    let (_folder, path) = socket();
    let server = Server::bind(&path, router()).unwrap().spawn();
    assert!(matches!(server, Err(BusError::NoRuntime { .. })));
    let publisher = Publisher::<SaEvent>::bind(&path);
    assert!(matches!(publisher, Err(BusError::NoRuntime { .. })));
}
