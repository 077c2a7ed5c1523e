//! Which requests there are: each type tied to its method name and its reply.

/// A request between processes.
///
/// The type is the method: a [`Client`](crate::Client) sends it, a [`Router`](crate::Router) has one handler
/// for it, and both agree on the reply.
pub trait Call: prost::Message + Default + 'static {
    /// What a successful request is answered with.
    type Reply: prost::Message + Default + 'static;

    /// How the request is named in its envelope.
    const METHOD: &'static str;

    /// Carrying it out twice is the same as once, by any process: it only reads.
    ///
    /// Such a request is sent again to a process that has restarted in between, and the server keeps no
    /// answers for it. Any other request reaches one incarnation of the process, once.
    const READS_ONLY: bool;
}

/// The bus's own first request; never routed to a handler.
pub(crate) const HELLO: &str = "Hello";

macro_rules! calls {
    ($($method:literal: $request:ident -> $reply:ident, $effect:ident;)*) => {
        use culvert_model::bus;
        $(
            impl Call for bus::$request {
                type Reply = bus::$reply;
                const METHOD: &'static str = $method;
                const READS_ONLY: bool = calls!(@ $effect);
            }
        )*
    };
    (@ reads) => { true };
    (@ changes) => { false };
}

calls! {
    // part.proto
    "Apply": ApplyRequest -> ApplyReply, changes;
    "Retrieve": RetrieveRequest -> RetrieveReply, reads;
    // sa.proto
    "AddSa": AddSaRequest -> AddSaReply, changes;
    "UpdateSa": UpdateSaRequest -> UpdateSaReply, changes;
    "DelSa": DelSaRequest -> DelSaReply, changes;
    "QuerySas": QuerySasRequest -> QuerySasReply, reads;
    "DumpSas": DumpSasRequest -> DumpSasReply, reads;
    "AddPolicy": AddPolicyRequest -> AddPolicyReply, changes;
    "DelPolicy": DelPolicyRequest -> DelPolicyReply, changes;
    "FlushSas": FlushSasRequest -> FlushSasReply, changes;
    // dataplane.proto; it can reset the counters that it shows
    "ShowNodes": ShowNodesRequest -> ShowNodesReply, changes;
    "ClearCounters": ClearCountersRequest -> ClearCountersReply, changes;
    "ShowDrops": ShowDropsRequest -> ShowDropsReply, reads;
    "ShowInterfaces": ShowInterfacesRequest -> ShowInterfacesReply, reads;
    "ShowReassembly": ShowReassemblyRequest -> ShowReassemblyReply, reads;
    "ShowPaths": ShowPathsRequest -> ShowPathsReply, reads;
    "ShowNeighbours": ShowNeighboursRequest -> ShowNeighboursReply, reads;
    "ClearNeighbours": ClearNeighboursRequest -> ClearNeighboursReply, changes;
    "ShowRoutes": ShowRoutesRequest -> ShowRoutesReply, reads;
    "SetGroups": SetGroupsRequest -> SetGroupsReply, changes;
    // observe.proto; reading takes away what it shows
    "StartTrace": StartTraceRequest -> StartTraceReply, changes;
    "ReadTrace": ReadTraceRequest -> ReadTraceReply, changes;
    "StopTrace": StopTraceRequest -> StopTraceReply, changes;
    "StartCapture": StartCaptureRequest -> StartCaptureReply, changes;
    "ReadCapture": ReadCaptureRequest -> ReadCaptureReply, changes;
    "StopCapture": StopCaptureRequest -> StopCaptureReply, changes;
    // run.proto; a piece of a plan is what follows the one before
    "SetPlan": SetPlanRequest -> SetPlanReply, changes;
    "ShowPlan": ShowPlanRequest -> ShowPlanReply, reads;
    "Resynchronise": ResynchroniseRequest -> ResynchroniseReply, changes;
    "ShowTransactions": ShowTransactionsRequest -> ShowTransactionsReply, reads;
    "ShowGraph": ShowGraphRequest -> ShowGraphReply, reads;
    "ShowProcesses": ShowProcessesRequest -> ShowProcessesReply, reads;
    "ShowClock": ShowClockRequest -> ShowClockReply, reads;
    "RestartProcess": RestartProcessRequest -> RestartProcessReply, changes;
    // dhcp.proto
    "WatchDhcp": WatchDhcpRequest -> WatchDhcpReply, reads;
    "ShowDhcp": ShowDhcpRequest -> ShowDhcpReply, reads;
    // iked.proto
    "ShowIke": ShowIkeRequest -> ShowIkeReply, reads;
    "Initiate": InitiateRequest -> InitiateReply, changes;
    "Rekey": RekeyRequest -> RekeyReply, changes;
    "Terminate": TerminateRequest -> TerminateReply, changes;
}
