//! Those who may log in can be told apart. Nothing is planned for them: sshd's files are mgmt's own.

use std::collections::HashMap;

use super::{PlanReason, Planner};
use crate::config::Config;
use crate::decode::path;

/// Who has the box is not made by configuring a user of that name.
const ROOT: &str = "root";

/// A key is somebody's alone, since sshd knows people by their keys.
pub(super) fn plan(config: &Config, planner: &mut Planner) {
    let Some(system) = &config.system else {
        return;
    };
    let list = path::field("system", "users");
    let mut owners: HashMap<&str, (usize, String)> = HashMap::new();
    for (index, user) in system.users.iter().enumerate() {
        let at = path::item(&list, &[user.name().to_owned()], index);
        if user.name() == ROOT {
            planner.refuse(
                path::field(&at, "name"),
                PlanReason::ReservedName {
                    name: ROOT.to_owned(),
                },
            );
        }
        let keys = path::field(&at, "ssh_keys");
        for (number, key) in user.ssh_keys.iter().enumerate() {
            let own = path::field(
                &path::item(&keys, &[key.name().to_owned()], number),
                "public_key",
            );
            // Type, key, comment: the comment makes no other key.
            let body = key.public_key().split(' ').nth(1).unwrap_or_default();
            match owners.get(body) {
                Some((owner, other)) if *owner != index => planner.refuse(
                    own,
                    PlanReason::Taken {
                        what: "this key".to_owned(),
                        other: other.clone(),
                    },
                ),
                Some(_) => {}
                None => {
                    owners.insert(body, (index, own));
                }
            }
        }
    }
}
