//! mgmt, as the command line sees it: connected when first needed, asked on behalf of one person.

use std::path::PathBuf;
use std::sync::Arc;

use culvert_mgmt_api::{
    ConfigurationClient, GatewayClient, KEY, MESSAGE_LIMIT, ORIGIN, PRINCIPAL, connect,
};
use tokio::sync::OnceCell;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::error::CliError;

/// For whom calls are made, and from where.
#[derive(Debug, Clone)]
pub struct Identity {
    principal: Option<MetadataValue<Ascii>>,
    origin: Option<MetadataValue<Ascii>>,
    key: Option<MetadataValue<Ascii>>,
}

impl Identity {
    /// Of a login shell for a principal who came in with a key, or of whoever runs the process.
    pub fn new(principal: Option<&str>, origin: &str, key: Option<&str>) -> Result<Self, CliError> {
        let visible = |text: &str, what: &str| {
            text.parse()
                .map_err(|_| CliError::Not(format!("{what} has visible ASCII characters only")))
        };
        Ok(Self {
            principal: principal
                .map(|name| visible(name, "the name of a principal"))
                .transpose()?,
            // What an environment says about an address is worth no error.
            origin: origin.parse().ok(),
            key: key.map(|key| visible(key, "a fingerprint")).transpose()?,
        })
    }
}

impl Interceptor for Identity {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        if let Some(principal) = &self.principal {
            metadata.insert(PRINCIPAL, principal.clone());
        }
        if let Some(origin) = &self.origin {
            metadata.insert(ORIGIN, origin.clone());
        }
        if let Some(key) = &self.key {
            metadata.insert(KEY, key.clone());
        }
        Ok(request)
    }
}

/// The configuration service.
pub type Service = ConfigurationClient<InterceptedService<Channel, Identity>>;

/// The gateway itself: what it does, and what it is told to do.
pub type Operations = GatewayClient<InterceptedService<Channel, Identity>>;

/// The way to mgmt.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    identity: Identity,
    /// One connection for all copies: mgmt counts them, and takes each for a session.
    channel: Arc<OnceCell<Channel>>,
    service: Option<Service>,
}

impl Client {
    /// Not connected yet: much of what is asked needs no mgmt.
    pub fn new(socket: PathBuf, identity: Identity) -> Self {
        Self {
            socket,
            identity,
            channel: Arc::default(),
            service: None,
        }
    }

    /// The connection, shared by the services and by copies; it comes up again by itself.
    async fn channel(&self) -> Result<Channel, CliError> {
        let channel = self.channel.get_or_try_init(|| connect(&self.socket));
        Ok(channel.await?.clone())
    }

    /// The gateway; connects if that was not done.
    pub async fn operations(&mut self) -> Result<Operations, CliError> {
        let channel = self.channel().await?;
        Ok(
            GatewayClient::with_interceptor(channel, self.identity.clone())
                .max_decoding_message_size(MESSAGE_LIMIT)
                .max_encoding_message_size(MESSAGE_LIMIT),
        )
    }

    /// The service; connects if that was not done.
    pub async fn service(&mut self) -> Result<&mut Service, CliError> {
        if self.service.is_none() {
            let channel = self.channel().await?;
            let service = ConfigurationClient::with_interceptor(channel, self.identity.clone())
                .max_decoding_message_size(MESSAGE_LIMIT)
                .max_encoding_message_size(MESSAGE_LIMIT);
            self.service = Some(service);
        }
        self.service
            .as_mut()
            .ok_or_else(|| CliError::Not("mgmt is not reached".to_owned()))
    }
}
