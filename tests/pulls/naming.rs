//! Which upstream a request reaches: `?ns=`, Host, path, bare names. The order itself is unit
//! tested in `pull::naming`; this is the way through HTTP.

use pierhead_kit::http::{self, Request, head};
use pierhead_kit::program::{Options, Pierhead};
use pierhead_kit::upstream::FaultyUpstream;

use super::{PIERHEAD, code, pierhead};

fn two() -> (FaultyUpstream, FaultyUpstream, Pierhead) {
    let (hub, other) = (FaultyUpstream::start_blocking(), FaultyUpstream::start_blocking());
    hub.add_image("library/a", "v1", vec![vec![1_u8; 10]]);
    other.add_image("a", "v1", vec![vec![2_u8; 10]]);
    other.add_image("team/a", "v1", vec![vec![2_u8; 10]]);
    let pierhead = Pierhead::start(
        PIERHEAD,
        &format!(
            "[server]\npublic_url = \"http://mirror.example:5000\"\n\
             [upstream.\"docker.io\"]\nendpoints = [\"{}\"]\n\
             [upstream.\"registry.example:5000\"]\nendpoints = [\"{}\"]\nalias = \"internal\"\n\
             hosts = [\"internal.mirror.example\"]\n",
            hub.url(),
            other.url()
        ),
    );
    (hub, other, pierhead)
}

#[test]
fn a_namespace_selects_and_is_echoed() {
    let (hub, other, pierhead) = two();
    let get = |query: &str| http::get(format!("{}/v2/a/manifests/v1?ns={query}", pierhead.url()));
    let answer = get("registry.example%3A5000").expect(200);
    assert_eq!(answer.header("oci-namespace"), Some("registry.example:5000"));
    assert_eq!((hub.log().len(), other.log().len()), (0, 1));
    for namespace in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
        let answer = get(namespace).expect(200);
        assert_eq!(answer.header("oci-namespace"), Some(namespace));
    }
    get("mirror.example%3A5000").expect(200);
    assert_eq!((hub.log().len(), other.log().len()), (1, 1));
}

#[test]
fn an_unknown_namespace_is_answered_without_a_dial() {
    let (hub, other, pierhead) = two();
    let victim = FaultyUpstream::start_blocking();
    let address = victim.addr().to_string();
    for namespace in ["evil.example", &address, "169.254.169.254", "localhost"] {
        let url = format!("{}/v2/a/manifests/v1?ns={namespace}", pierhead.url());
        let answer = http::get(&*url);
        assert_eq!((answer.status, code(&answer).as_str()), (404, "NAME_UNKNOWN"));
        assert_eq!(head(&*url).status, 404);
    }
    assert_eq!((hub.log().len(), other.log().len(), victim.connections()), (0, 0, 0));
}

#[test]
fn host_path_and_bare_names() {
    let (hub, other, pierhead) = two();
    let get = |host: Option<&str>, name: &str| {
        let mut request = Request::new("GET", format!("{}/v2/{name}/manifests/v1", pierhead.url()));
        if let Some(host) = host {
            request = request.header("Host", host);
        }
        request.send()
    };
    get(Some("internal.mirror.example"), "team/a").expect(200);
    get(None, "internal/team/a").expect(200);
    assert_eq!((hub.log().len(), other.log().len()), (0, 1));
    for name in ["a", "library/a", "docker.io/a", "docker.io/library/a"] {
        get(None, name).expect(200);
    }
    assert_eq!((hub.log().len(), other.log().len()), (1, 1));
    let hosted = get(None, "hosted/a");
    assert_eq!((hosted.status, code(&hosted).as_str()), (404, "NAME_UNKNOWN"));
    assert_eq!((hub.log().len(), other.log().len()), (1, 1));
}

#[test]
fn it_never_dials_itself() {
    // The port is only known after binding, so the loop is made through the name of its own
    // listener in the second start.
    let mut pierhead = Pierhead::start(PIERHEAD, "");
    let url = pierhead.url().to_owned();
    pierhead.terminate();
    let address = url.strip_prefix("http://").unwrap();
    let config = format!(
        "[server]\nlisten = \"{address}\"\nadmin_listen = \"127.0.0.1:0\"\n\
         [upstream.\"docker.io\"]\nendpoints = [\"{url}\"]\n"
    );
    let refused = Options::new(PIERHEAD).config(&config).try_start();
    assert!(refused.is_err_and(|why| why.contains("endpoint")), "a loop was accepted");
    // Through a name that the configuration cannot see through.
    let config = config.replace(&format!("endpoints = [\"{url}\"]"), &{
        let port = address.rsplit_once(':').unwrap().1;
        format!(
            "endpoints = [\"http://localhost.localdomain:{port}\", \"http://127.0.0.2:{port}\"]"
        )
    });
    let config = config.replace(&format!("listen = \"{address}\""), &{
        let port = address.rsplit_once(':').unwrap().1;
        format!("listen = \"0.0.0.0:{port}\"")
    });
    // It may be seen at the start or when dialling, and must be seen at one of them.
    match Options::new(PIERHEAD).config(&config).try_start() {
        Err(why) => assert!(why.contains("endpoint"), "{why}"),
        Ok(pierhead) => {
            let answer = http::get(format!("{}/v2/a/manifests/v1", pierhead.url()));
            assert!(matches!(answer.status, 502 | 508), "{answer:?}");
        }
    }
}

#[test]
fn unknown_query_parameters_are_tolerated_everywhere() {
    let upstream = FaultyUpstream::start_blocking();
    let image = upstream.add_image("library/a", "v1", vec![vec![1_u8; 10]]);
    let pierhead = pierhead(&upstream, "");
    for path in [
        "manifests/v1".to_owned(),
        format!("manifests/{}", image.manifest),
        format!("blobs/{}", image.layers[0]),
        "tags/list".to_owned(),
        format!("referrers/{}", image.manifest),
    ] {
        let url = format!("{}/v2/library/a/{path}?x=1&ns=docker.io&y", pierhead.url());
        http::get(&*url).expect(200);
        assert_eq!(head(&*url).status, 200);
    }
}
