//! The northbound service on its Unix socket: who calls is found out, the agent does it, refusals become statuses.

use std::sync::Arc;

use culvert_mgmt_api::{Configuration, KEY, ORIGIN, PRINCIPAL};
use culvert_model::api;
use tonic::{Code, Request, Response, Status};

use crate::agent::{Agent, Caller, Claim, Hands, HandsError, Peer, Refusal};
use crate::connections::Seat;
use crate::store::StoreError;

/// Serves an agent.
pub struct Service<H> {
    agent: Arc<Agent<H>>,
}

impl<H: Hands> Service<H> {
    /// Of this agent.
    pub fn new(agent: Arc<Agent<H>>) -> Self {
        Self { agent }
    }

    async fn caller<T>(&self, request: Request<T>) -> Result<(Caller, T), Status> {
        caller_of(&self.agent, request).await
    }

    /// A refusal that the audit trail knows of.
    async fn refused(&self, caller: &Caller, what: &'static str, refusal: &Refusal) -> Status {
        self.agent.note_refusal(caller, what, refusal).await;
        status(refusal)
    }
}

/// By the kernel's word and by the other end's own.
fn claimed<T>(request: &Request<T>) -> Result<(Seat, Peer, Claim), Status> {
    let seat = request
        .extensions()
        .get::<Seat>()
        .cloned()
        .ok_or_else(|| Status::unauthenticated("the kernel does not say who that is"))?;
    if let Some(reason) = seat.refusal() {
        return Err(Status::resource_exhausted(reason));
    }
    let text = |name: &str| {
        let value = request.metadata().get(name)?;
        // Longer than any address or name.
        value.to_str().ok().filter(|text| text.len() <= 256)
    };
    let claim = Claim {
        principal: text(PRINCIPAL).map(str::to_owned),
        origin: text(ORIGIN).map(str::to_owned),
        key: text(KEY).map(str::to_owned),
    };
    let peer = Peer { uid: seat.uid() };
    Ok((seat, peer, claim))
}

/// Who calls, and what they ask.
pub(crate) async fn caller_of<H: Hands, T>(
    agent: &Agent<H>,
    request: Request<T>,
) -> Result<(Caller, T), Status> {
    let (seat, peer, claim) = claimed(&request)?;
    let caller = agent
        .identify(peer, claim)
        .await
        .map_err(|refusal| status(&refusal))?;
    if seat.begins(&caller).map_err(Status::resource_exhausted)? {
        agent
            .session_begins(&caller)
            .await
            .map_err(|refusal| status(&refusal))?;
    }
    Ok((caller, request.into_inner()))
}

pub(crate) fn status(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::Stranger(_) => Code::Unauthenticated,
        Refusal::Role { .. } => Code::PermissionDenied,
        Refusal::NoCandidate(_) | Refusal::Store(StoreError::NoSuchRevision(_)) => Code::NotFound,
        Refusal::Malformed(_)
        | Refusal::Store(
            StoreError::NothingToReturnTo
            | StoreError::NotPending(_)
            | StoreError::NothingPending
            | StoreError::TooLate(_)
            | StoreError::TextTooLong { .. },
        ) => Code::InvalidArgument,
        Refusal::Held(_) | Refusal::HoldOver { .. } | Refusal::Store(StoreError::Moved { .. }) => {
            Code::Aborted
        }
        Refusal::Store(
            StoreError::DiskFull
            | StoreError::TooManyCandidates(_)
            | StoreError::TooManyPinned { .. }
            | StoreError::TooLarge { .. },
        ) => Code::ResourceExhausted,
        Refusal::Store(StoreError::ReadOnly) | Refusal::Hands(HandsError::Refused(_)) => {
            Code::FailedPrecondition
        }
        Refusal::Hands(HandsError::Away(_)) => Code::Unavailable,
        Refusal::Store(_)
        | Refusal::Unreadable { .. }
        | Refusal::Invalid { .. }
        | Refusal::Inside(_) => Code::Internal,
    };
    if code == Code::Internal {
        tracing::error!(%refusal);
    }
    Status::new(code, refusal.to_string())
}

/// Each method is the agent's of the same kind.
macro_rules! ask {
    ($self:ident.$method:ident($request:ident)) => {{
        let (caller, request) = $self.caller($request).await?;
        match $self.agent.$method(&caller, request).await {
            Ok(reply) => Ok(Response::new(reply)),
            Err(refusal) => Err($self.refused(&caller, stringify!($method), &refusal).await),
        }
    }};
}

#[tonic::async_trait]
impl<H: Hands> Configuration for Service<H> {
    async fn attend(
        &self,
        request: Request<api::AttendRequest>,
    ) -> Result<Response<api::AttendReply>, Status> {
        let (_, peer, claim) = claimed(&request)?;
        let (caller, _) = self.caller(request).await?;
        let attended = self.agent.attend(&caller, peer, claim).await;
        attended
            .map(Response::new)
            .map_err(|refusal| status(&refusal))
    }

    async fn open(
        &self,
        request: Request<api::OpenRequest>,
    ) -> Result<Response<api::OpenReply>, Status> {
        ask!(self.open(request))
    }

    async fn edit(
        &self,
        request: Request<api::EditRequest>,
    ) -> Result<Response<api::EditReply>, Status> {
        ask!(self.edit(request))
    }

    async fn get(
        &self,
        request: Request<api::GetRequest>,
    ) -> Result<Response<api::GetReply>, Status> {
        ask!(self.get(request))
    }

    async fn compare(
        &self,
        request: Request<api::CompareRequest>,
    ) -> Result<Response<api::CompareReply>, Status> {
        ask!(self.compare(request))
    }

    async fn complete(
        &self,
        request: Request<api::CompleteRequest>,
    ) -> Result<Response<api::CompleteReply>, Status> {
        ask!(self.complete(request))
    }

    async fn commit(
        &self,
        request: Request<api::CommitRequest>,
    ) -> Result<Response<api::CommitReply>, Status> {
        let (caller, request) = self.caller(request).await?;
        let agent = Arc::clone(&self.agent);
        // On its own: whoever asked may go away in the middle, the commit goes on to its end.
        tokio::spawn(async move {
            let outcome = agent.commit(&caller, request).await;
            match &outcome {
                Ok(reply) => agent.note_commit(&caller, reply).await,
                Err(refusal) => agent.note_refusal(&caller, "commit", refusal).await,
            }
            outcome
        })
        .await
        .map_err(|error| Status::internal(error.to_string()))?
        .map(Response::new)
        .map_err(|refusal| status(&refusal))
    }

    async fn confirm(
        &self,
        request: Request<api::ConfirmRequest>,
    ) -> Result<Response<api::ConfirmReply>, Status> {
        ask!(self.confirm(request))
    }

    async fn discard(
        &self,
        request: Request<api::DiscardRequest>,
    ) -> Result<Response<api::DiscardReply>, Status> {
        ask!(self.discard(request))
    }

    async fn list_revisions(
        &self,
        request: Request<api::ListRevisionsRequest>,
    ) -> Result<Response<api::ListRevisionsReply>, Status> {
        ask!(self.revisions(request))
    }

    async fn pin(
        &self,
        request: Request<api::PinRequest>,
    ) -> Result<Response<api::PinReply>, Status> {
        ask!(self.pin(request))
    }

    async fn status(
        &self,
        request: Request<api::StatusRequest>,
    ) -> Result<Response<api::StatusReply>, Status> {
        ask!(self.status(request))
    }

    async fn list_transactions(
        &self,
        request: Request<api::ListTransactionsRequest>,
    ) -> Result<Response<api::ListTransactionsReply>, Status> {
        ask!(self.transactions(request))
    }

    async fn graph(
        &self,
        request: Request<api::GraphRequest>,
    ) -> Result<Response<api::GraphReply>, Status> {
        ask!(self.graph(request))
    }

    async fn resynchronise(
        &self,
        request: Request<api::ResynchroniseRequest>,
    ) -> Result<Response<api::ResynchroniseReply>, Status> {
        ask!(self.resynchronise(request))
    }

    async fn list_audit(
        &self,
        request: Request<api::ListAuditRequest>,
    ) -> Result<Response<api::ListAuditReply>, Status> {
        ask!(self.audit_trail(request))
    }

    async fn export(
        &self,
        request: Request<api::ExportRequest>,
    ) -> Result<Response<api::ExportReply>, Status> {
        ask!(self.export(request))
    }

    async fn generate_key(
        &self,
        request: Request<api::GenerateKeyRequest>,
    ) -> Result<Response<api::EditReply>, Status> {
        ask!(self.generate_key(request))
    }

    async fn request_certificate(
        &self,
        request: Request<api::RequestCertificateRequest>,
    ) -> Result<Response<api::RequestCertificateReply>, Status> {
        ask!(self.request_certificate(request))
    }

    async fn list_certificates(
        &self,
        request: Request<api::ListCertificatesRequest>,
    ) -> Result<Response<api::ListCertificatesReply>, Status> {
        ask!(self.list_certificates(request))
    }

    async fn rotate_key(
        &self,
        request: Request<api::RotateKeyRequest>,
    ) -> Result<Response<api::RotateKeyReply>, Status> {
        ask!(self.rotate_key(request))
    }

    async fn who_am_i(
        &self,
        request: Request<api::WhoAmIRequest>,
    ) -> Result<Response<api::WhoAmIReply>, Status> {
        ask!(self.who_am_i(request))
    }
}
