//! One CloudWatch: who asks it, where it is, and how often it is asked again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::{StaticConfiguration, WebIdentityTokenCredentialsProvider};
use aws_config::{AppName, BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::config::http::HttpResponse;
use aws_sdk_cloudwatch::config::retry::RetryConfig;
use aws_sdk_cloudwatch::config::timeout::TimeoutConfig;
use aws_sdk_cloudwatch::config::{Builder, Credentials, SharedHttpClient};
use aws_sdk_cloudwatch::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::Builder as HttpBuilder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use cutover_sources::{AskError, Wall};
use tokio::sync::OnceCell;

use crate::budget::{Budget, pause};
use crate::skew::Skew;
use crate::trouble;

/// Trying longer is left to the next measurement.
const TRIES: u32 = 5;
const CONNECT: Duration = Duration::from_secs(3);
const ONE_TRY: Duration = Duration::from_secs(8);

/// Where it is and who asks, as the release file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) region: Option<String>,
    pub(crate) profile: Option<String>,
    pub(crate) endpoint: Option<String>,
}

/// One CloudWatch. Nothing is read or asked before its first question.
pub(crate) struct Store {
    pub(crate) place: Place,
    /// What the release brought of AWS' own environment variables.
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) skew: Skew,
    client: OnceCell<Client>,
}

impl Store {
    pub(crate) fn new(place: Place, variables: BTreeMap<String, String>, wall: Wall) -> Store {
        Store { place, variables, skew: Skew::new(wall), client: OnceCell::new() }
    }

    /// Asks, again where that may help, and never beyond the budget.
    pub(crate) async fn call<T, E, F>(
        &self,
        action: &str,
        budget: &Budget,
        ask: impl Fn(Client) -> F,
    ) -> Result<T, AskError>
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        let client = self.client.get_or_try_init(|| self.connect()).await?;
        let mut failed = 0;
        loop {
            budget.take().await;
            let error = match ask(client.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            failed += 1;
            let trouble = trouble::of(&who(client), action, &error);
            if !trouble.again || failed == TRIES {
                return Err(trouble.error);
            }
            tracing::debug!(action, failed, error = %trouble.error, "asking CloudWatch again");
            tokio::time::sleep(pause(failed, fastrand::f64())).await;
        }
    }

    async fn connect(&self) -> Result<Client, AskError> {
        let http = HttpBuilder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let config = self.configured(http).await;
        if config.region().is_none() {
            return Err(AskError::wrong(
                "CloudWatch cannot be asked: no region is known",
                "give `region` in `cloudwatch`, or set AWS_REGION where `cutover deploy` runs",
            ));
        }
        // Tries again by itself and outside of the budget, if it is let.
        let config = Builder::from(&config).retry_config(RetryConfig::disabled());
        Ok(Client::from_conf(config.interceptor(self.skew.clone()).build()))
    }

    /// Finds region and credentials where AWS' own tools find them: the release's variables first, then this process'
    /// environment and this machine.
    async fn configured(&self, http: SharedHttpClient) -> SdkConfig {
        let variable = |name: &str| self.variables.get(name).cloned().filter(|value| !value.is_empty());
        let timeouts =
            TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(ONE_TRY).build();
        let mut loader: ConfigLoader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http.clone())
            .timeout_config(timeouts);
        if let Ok(name) = AppName::new("cutover") {
            loader = loader.app_name(name);
        }
        let mut region = self.place.region.clone();
        for name in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
            region = region.or_else(|| variable(name));
        }
        let endpoint = self.place.endpoint.clone();
        let endpoint = endpoint.or_else(|| variable("AWS_ENDPOINT_URL_CLOUDWATCH"));
        if let Some(endpoint) = endpoint.or_else(|| variable("AWS_ENDPOINT_URL")) {
            loader = loader.endpoint_url(endpoint);
        }
        let files = profile_files(&variable);
        if let Some(files) = &files {
            loader = loader.profile_files(files.clone());
        }
        if let Some(profile) = self.place.profile.clone().or_else(|| variable("AWS_PROFILE")) {
            loader = loader.profile_name(profile);
        }
        let provider =
            ProviderConfig::default().with_http_client(http).with_region(region.clone().map(Region::new));
        if let Some(region) = region {
            loader = loader.region(Region::new(region));
        }
        let keys = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"));
        let role = (variable("AWS_ROLE_ARN"), variable("AWS_WEB_IDENTITY_TOKEN_FILE"));
        // The same order as elsewhere; but a profile that the release file itself names comes before any variable.
        let loader = match (&self.place.profile, keys, role) {
            (Some(profile), _, _) => {
                let mut named =
                    ProfileFileCredentialsProvider::builder().configure(&provider).profile_name(profile);
                if let Some(files) = files {
                    named = named.profile_files(files);
                }
                loader.credentials_provider(named.build())
            }
            (None, (Some(key), Some(secret)), _) => {
                let token = variable("AWS_SESSION_TOKEN");
                loader.credentials_provider(Credentials::new(key, secret, token, None, "release"))
            }
            (None, _, (Some(role_arn), Some(file))) => {
                let session_name = variable("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| "cutover".into());
                let web_identity_token_file = file.into();
                let fixed = StaticConfiguration { web_identity_token_file, role_arn, session_name };
                let identity = WebIdentityTokenCredentialsProvider::builder();
                loader.credentials_provider(identity.configure(&provider).static_configuration(fixed).build())
            }
            _ => loader,
        };
        loader.load().await
    }
}

fn profile_files(variable: &impl Fn(&str) -> Option<String>) -> Option<EnvConfigFiles> {
    let (config, credentials) = (variable("AWS_CONFIG_FILE"), variable("AWS_SHARED_CREDENTIALS_FILE"));
    if config.is_none() && credentials.is_none() {
        return None;
    }
    let mut files = EnvConfigFiles::builder();
    files = match config {
        Some(path) => files.with_file(EnvConfigFileKind::Config, path),
        None => files.include_default_config_file(true),
    };
    files = match credentials {
        Some(path) => files.with_file(EnvConfigFileKind::Credentials, path),
        None => files.include_default_credentials_file(true),
    };
    Some(files.build())
}

fn who(client: &Client) -> String {
    let region = client.config().region().map(|region| format!(" in {region}"));
    format!("CloudWatch{}", region.unwrap_or_default())
}

/// What all sources of one account and region share.
pub(crate) struct Budgets {
    pub(crate) data: Budget,
    pub(crate) alarms: Budget,
}

impl Budgets {
    pub(crate) fn new() -> Arc<Budgets> {
        Arc::new(Budgets {
            data: Budget::new(crate::budget::DATA),
            alarms: Budget::new(crate::budget::ALARMS),
        })
    }
}
