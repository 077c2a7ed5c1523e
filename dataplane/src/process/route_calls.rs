//! What the dataplane shows of its routes: a page for each call.

use std::net::IpAddr;

use culvert_bus::refuse;
use culvert_model::bus::refusal::Code;
use culvert_model::bus::{self, Refusal, route_state::Source};
use culvert_model::types;
use culvert_net::IpPrefix;

use super::state::State;
use crate::control::{Route, RouteFilter, RouteHop, RouteSource};

/// Prefixes of a page: some 200 KB of answer.
const MOST: usize = 2048;

/// Routes as workers see them.
pub(super) fn routes(
    state: &mut State,
    request: &bus::ShowRoutesRequest,
) -> Result<bus::ShowRoutesReply, Refusal> {
    let malformed = |what: &str| refuse(Code::Malformed, format!("{what} is malformed"));
    let towards = request.towards.as_ref().map(IpAddr::try_from).transpose();
    let filter = RouteFilter {
        vrf: Some(request.vrf.clone()).filter(|vrf| !vrf.is_empty()),
        within: request
            .within
            .as_ref()
            .map(|within| prefix(within).ok_or_else(|| malformed("the prefix")))
            .transpose()?,
        towards: towards.map_err(|_| malformed("the address"))?,
    };
    let after = request.after.as_ref().map(|after| {
        let destination = after.destination.as_ref().and_then(prefix);
        Ok((after.vrf, destination.ok_or_else(|| malformed("the page"))?))
    });
    let most = match request.most as usize {
        0 => MOST,
        most => most.min(MOST),
    };
    let page = state.plane.routes(&filter, after.transpose()?, most);
    Ok(bus::ShowRoutesReply {
        routes: page.routes.into_iter().map(route).collect(),
        next: page.next.map(|(vrf, destination)| bus::RouteKey {
            vrf,
            destination: Some(on_the_bus(destination)),
        }),
    })
}

fn route(route: Route) -> bus::RouteState {
    bus::RouteState {
        vrf: route.vrf,
        destination: Some(on_the_bus(route.destination)),
        source: match route.source {
            RouteSource::Local => Source::Local,
            RouteSource::Connected => Source::Connected,
            RouteSource::Configured => Source::Configured,
            RouteSource::Learnt => Source::Learnt,
            RouteSource::Neighbour => Source::Neighbour,
        }
        .into(),
        active: route.active,
        hops: route.hops.into_iter().map(hop).collect(),
    }
}

fn hop(hop: RouteHop) -> bus::RouteHop {
    bus::RouteHop {
        gateway: hop.gateway.map(Into::into),
        interface: hop.interface.unwrap_or_default(),
        vrf: hop.vrf.unwrap_or_default(),
        mac: hop.mac.map(|mac| mac.0.to_vec()).unwrap_or_default(),
        state: hop.state.to_owned(),
    }
}

fn on_the_bus(prefix: IpPrefix) -> types::IpPrefix {
    types::IpPrefix {
        address: Some(prefix.address().into()),
        length: prefix.length().into(),
    }
}

fn prefix(message: &types::IpPrefix) -> Option<IpPrefix> {
    let address = IpAddr::try_from(message.address.as_ref()?).ok()?;
    IpPrefix::covering(address, u8::try_from(message.length).ok()?).ok()
}
