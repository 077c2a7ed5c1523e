//! Which handler answers which request.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use culvert_model::bus::{Refusal, refusal};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use prost::Message as _;
use tokio::time::Instant;

use crate::Call;
use crate::wiped::Wiped;

/// What a handler knows of a request besides its content.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Id of the request, for the log.
    pub id: u64,
    /// When the caller stops waiting. The handler is not interrupted then, so that nothing is left half done:
    /// whoever repeats the request gets its answer. It is stopped [`GRACE`](crate::GRACE) later.
    pub deadline: Instant,
}

/// What a handler's work comes to: an encoded reply, or a no.
pub(crate) type Answer = Result<Vec<u8>, Refusal>;

type Handler = dyn Fn(Wiped, Context) -> BoxFuture<'static, Answer> + Send + Sync;

/// The handlers of one process.
///
/// ```no_run
/// # use culvert_bus::{Router, Server};
/// # use culvert_model::bus::{ApplyReply, ApplyRequest};
/// let router = Router::new("dataplane").on(|request: ApplyRequest, _context| async move {
///     let results = request.operations.iter().map(|_| Default::default()).collect();
///     Ok(ApplyReply { results })
/// });
/// # let _ = router;
/// ```
pub struct Router {
    process: String,
    routes: HashMap<&'static str, Route>,
}

#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) reads_only: bool,
    pub(crate) handler: Arc<Handler>,
}

impl Router {
    /// No handlers yet; `process` is how the process names itself in a greeting.
    pub fn new(process: impl Into<String>) -> Self {
        Self {
            process: process.into(),
            routes: HashMap::new(),
        }
    }

    /// Adds the handler of a request. It runs as a task of its own. A second one for the same request takes the
    /// place of the first.
    #[must_use]
    pub fn on<C, H, F>(mut self, handler: H) -> Self
    where
        C: Call,
        H: Fn(C, Context) -> F + Send + Sync + 'static,
        F: Future<Output = Result<C::Reply, Refusal>> + Send + 'static,
    {
        let handler = move |body: Wiped, context: Context| {
            let decoded = body.decode::<C>();
            drop(body);
            match decoded {
                Ok(request) => handler(request, context)
                    .map(|reply| reply.map(|reply| reply.encode_to_vec()))
                    .boxed(),
                Err(error) => {
                    let message = format!("the body of {} does not decode: {error}", C::METHOD);
                    let answer = Err(refuse(refusal::Code::Malformed, message));
                    futures::future::ready(answer).boxed()
                }
            }
        };
        let route = Route {
            reads_only: C::READS_ONLY,
            handler: Arc::new(handler),
        };
        self.routes.insert(C::METHOD, route);
        self
    }

    pub(crate) fn process(&self) -> &str {
        &self.process
    }

    pub(crate) fn route(&self, method: &str) -> Option<&Route> {
        self.routes.get(method)
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut methods: Vec<_> = self.routes.keys().collect();
        methods.sort();
        f.debug_struct("Router")
            .field("process", &self.process)
            .field("methods", &methods)
            .finish()
    }
}

/// A refusal, in the words that a handler has for it.
pub fn refuse(code: refusal::Code, message: impl Into<String>) -> Refusal {
    Refusal {
        code: code.into(),
        message: message.into(),
    }
}
