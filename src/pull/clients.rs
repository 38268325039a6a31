//! How many fills one client may have begun: nobody takes all of them.

use super::flight::{Flight, Progress};
use crate::background::Tasks;
use crate::client_id::ClientId;
use crate::gate::{Full, Limit, PerClient, Place};

/// The fills of each client. Cheap to clone; clones share the counts.
#[derive(Clone, Debug)]
pub struct ClientFills {
    clients: PerClient<ClientId>,
    tasks: Tasks,
}

/// The right of a client to begin one fill. Dropping it gives the place back.
#[derive(Debug)]
pub struct FillPlace(Option<Place<ClientId>>);

impl ClientFills {
    /// Each client may have `each_max` fills at a time; 0 is no limit.
    pub fn new(each_max: u32, tasks: Tasks) -> Self {
        Self { clients: PerClient::new(Limit::FillsPerClient, each_max), tasks }
    }

    /// A place for a fill that `client` is about to begin. What the process asks for itself has no
    /// client, and no limit.
    ///
    /// # Errors
    /// When this client has begun as many as it may have.
    pub fn place(&self, client: Option<&ClientId>) -> Result<FillPlace, Full> {
        Ok(FillPlace(client.map(|client| self.clients.enter(client)).transpose()?))
    }

    /// Keeps `place` until `flight` has ended, whoever still follows it then.
    pub fn keep(&self, place: FillPlace, flight: &Flight) {
        let FillPlace(Some(place)) = place else { return };
        let mut progress = flight.watch();
        self.tasks.spawn("fill_place", async move {
            // A sender that is gone has ended it as well.
            let _ = progress.wait_for(Progress::is_terminal).await;
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::oci::Digest;
    use crate::pull::flight::{FillError, FlightKey, Flights, Role};
    use crate::scope::Scope;

    fn fills(each_max: u32) -> ClientFills {
        ClientFills::new(each_max, Tasks::new(&Registry::new()).unwrap())
    }

    fn client() -> ClientId {
        ClientId::new(Some("ci"), [192, 0, 2, 1].into())
    }

    #[tokio::test]
    async fn a_place_is_taken_for_as_long_as_the_fill_lasts() {
        let fills = fills(1);
        let scope =
            Scope { upstream: "docker.io".parse().unwrap(), repo: "library/a".parse().unwrap() };
        let key = FlightKey::new(&scope, &Digest::sha256(b"blob"));
        let Role::Lead(flight, permit) = Flights::default().join(&key, &scope, false) else {
            panic!("somebody else leads")
        };
        fills.keep(fills.place(Some(&client())).unwrap(), &flight);
        tokio::task::yield_now().await;
        assert_eq!(fills.place(Some(&client())).unwrap_err(), Full(Limit::FillsPerClient));
        assert!(fills.place(Some(&ClientId::at([192, 0, 2, 2].into()))).is_ok());
        assert!(fills.place(None).is_ok());
        permit.fail(FillError::Abandoned);
        while fills.place(Some(&client())).is_err() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_place_that_is_not_used_is_free_again() {
        let fills = fills(1);
        for _ in 0..3 {
            drop(fills.place(Some(&client())).unwrap());
        }
    }
}
