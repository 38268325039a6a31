//! An issuer of OpenID Connect, with real RS256 and ES256 keys that can be rotated.

use std::process::Command;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{self, EcdsaKeyPair, KeyPair as _, RsaKeyPair};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::port::Port;
use crate::program::require;

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA with PKCS#1 v1.5 and SHA-256: GitHub, GitLab and Kubernetes.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
}

impl Algorithm {
    /// Its name in a token's header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }
}

/// A pair of keys, one of each kind.
#[derive(Debug)]
struct Keys {
    number: usize,
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
}

impl Keys {
    fn make(number: usize) -> Self {
        let openssl = require("openssl").expect("it was there at the start");
        let args = ["genpkey", "-quiet", "-algorithm", "RSA", "-outform", "DER"];
        let made = Command::new(openssl)
            .args(args)
            .args(["-pkeyopt", "rsa_keygen_bits:2048"])
            .output()
            .expect("openssl runs");
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        // Versions of it differ in the form.
        let rsa = RsaKeyPair::from_pkcs8(&made.stdout)
            .or_else(|_| RsaKeyPair::from_der(&made.stdout))
            .expect("a key");
        let (random, kind) = (SystemRandom::new(), &signature::ECDSA_P256_SHA256_FIXED_SIGNING);
        let document = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("a key");
        let ec = EcdsaKeyPair::from_pkcs8(kind, document.as_ref(), &random).expect("a key");
        Self { number, rsa, ec }
    }

    fn id(&self, algorithm: Algorithm) -> String {
        format!("{}-{}", algorithm.name(), self.number)
    }

    /// Both public keys, as RFC 7517 has them.
    fn published(&self) -> Vec<Value> {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let rsa: PublicKeyComponents<Vec<u8>> = self.rsa.public().into();
        // One byte that says "not compressed", and two coordinates.
        let point = self.ec.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        vec![
            json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.id(Algorithm::Rs256),
                   "n": text(&rsa.n), "e": text(&rsa.e)}),
            json!({"kty": "EC", "use": "sig", "alg": "ES256", "kid": self.id(Algorithm::Es256),
                   "crv": "P-256", "x": text(x), "y": text(y)}),
        ]
    }

    fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match algorithm {
            Algorithm::Rs256 => {
                let mut signature = vec![0; self.rsa.public().modulus_len()];
                let padding = &signature::RSA_PKCS1_SHA256;
                self.rsa.sign(padding, &random, message, &mut signature).expect("a signature");
                signature
            }
            Algorithm::Es256 => {
                self.ec.sign(&random, message).expect("a signature").as_ref().to_vec()
            }
        }
    }
}

#[derive(Debug)]
struct State {
    url: String,
    keys: Mutex<Keys>,
    paths: Mutex<Vec<String>>,
}

/// An issuer. Dropping it ends it.
#[derive(Debug)]
pub struct Issuer {
    state: Arc<State>,
    _port: Port,
    _runtime: Runtime,
}

impl Issuer {
    /// Starts one; `None` where openssl is missing, which makes its RSA keys.
    #[track_caller]
    pub fn start() -> Option<Self> {
        require("openssl")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("issuer")
            .enable_all()
            .build()
            .expect("a runtime");
        let port = Port::reserve();
        let listener = {
            let _inside = runtime.enter();
            port.listen().expect("our own port")
        };
        let url = format!("http://{}", port.addr());
        let keys = Mutex::new(Keys::make(1));
        let state = Arc::new(State { url, keys, paths: Mutex::default() });
        let serving = Arc::clone(&state);
        runtime.spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let state = Arc::clone(&serving);
                let service = service_fn(move |request| {
                    let answer = answer(&state, &request);
                    async move { Ok::<_, std::convert::Infallible>(answer) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::runtime::Handle::current().spawn(connection);
            }
        });
        Some(Self { state, _port: port, _runtime: runtime })
    }

    /// What its tokens call it: `http://127.0.0.1:PORT`
    pub fn url(&self) -> &str {
        &self.state.url
    }

    /// A token with these claims, signed by a key that is published.
    pub fn token(&self, algorithm: Algorithm, claims: &Value) -> String {
        let keys = self.state.keys.lock().unwrap();
        let header = json!({"alg": algorithm.name(), "typ": "JWT", "kid": keys.id(algorithm)});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(claims));
        let signature = keys.sign(algorithm, message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// New keys of both kinds; the old ones are not published any more.
    pub fn rotate(&self) {
        let mut keys = self.state.keys.lock().unwrap();
        *keys = Keys::make(keys.number + 1);
    }

    /// The claims that GitHub Actions gives a job of `repository` on `branch`, for ten minutes.
    pub fn github_claims(&self, repository: &str, branch: &str, audience: &str) -> Value {
        let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
        // No two jobs have the same token.
        let id = format!("{:032x}", now.as_nanos());
        let now = now.as_secs();
        let (owner, _) = repository.split_once('/').expect("OWNER/NAME");
        let git_ref = format!("refs/heads/{branch}");
        let workflow = format!("{repository}/.github/workflows/build.yml@{git_ref}");
        json!({
            "jti": id,
            "sub": format!("repo:{repository}:ref:{git_ref}"),
            "aud": audience,
            "ref": git_ref,
            "sha": "0f1d9a7b3f8c4f7f9e0b0a4f2d1e3c5b7a9d8e6f",
            "repository": repository,
            "repository_owner": owner,
            "repository_owner_id": "1342004",
            "run_id": "9876543210",
            "run_number": "42",
            "run_attempt": "1",
            "repository_visibility": "private",
            "repository_id": "555666777",
            "actor_id": "12",
            "actor": "octocat",
            "workflow": "build",
            "head_ref": "",
            "base_ref": "",
            "event_name": "push",
            "ref_protected": "true",
            "ref_type": "branch",
            "workflow_ref": workflow,
            "workflow_sha": "0f1d9a7b3f8c4f7f9e0b0a4f2d1e3c5b7a9d8e6f",
            "job_workflow_ref": workflow,
            "runner_environment": "github-hosted",
            "iss": self.url(),
            "nbf": now - 600,
            "exp": now + 600,
            "iat": now,
        })
    }

    /// How often its keys were asked for.
    pub fn times_asked(&self) -> usize {
        let paths = self.state.paths.lock().unwrap();
        paths.iter().filter(|path| path.as_str() == KEYS_PATH).count()
    }
}

/// Where the keys are: the discovery document says so.
const KEYS_PATH: &str = "/.well-known/jwks";

fn answer(state: &State, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    state.paths.lock().unwrap().push(path.to_owned());
    let body = match path {
        "/.well-known/openid-configuration" => json!({
            "issuer": state.url,
            "jwks_uri": format!("{}{KEYS_PATH}", state.url),
            "id_token_signing_alg_values_supported": ["RS256", "ES256"],
        }),
        KEYS_PATH => json!({"keys": state.keys.lock().unwrap().published()}),
        _ => Value::Null,
    };
    let mut response = Response::new(Full::from(body.to_string()));
    if body.is_null() {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}
