//! Who is removed while logged in, or whose key is, is logged out: mgmt says so, whatever the session does then.

use std::io::Write as _;
use std::time::Duration;

use culvert_model::api::AttendRequest;
use tokio::runtime::Runtime;
use tonic::Code;

use crate::client::Client;

/// Between two tries to reach a mgmt that is away.
const AGAIN: Duration = Duration::from_secs(1);
/// As of a command that failed.
const STATUS: i32 = 1;

/// Ends the process when its user, or the key of its user, is none any more. What was committed goes on in mgmt.
pub fn end_with_the_user(runtime: &Runtime, mut client: Client) {
    runtime.spawn(async move {
        loop {
            if let Ok(service) = client.service().await
                && let Err(refused) = service.attend(AttendRequest {}).await
                && refused.code() == Code::Unauthenticated
            {
                // The terminal goes with the session, so that nothing of it is to be put back.
                let _ = write!(
                    std::io::stderr(),
                    "\r\n{}: the session ends\r\n",
                    refused.message()
                );
                std::process::exit(STATUS);
            }
            tokio::time::sleep(AGAIN).await;
        }
    });
}
