//! How many fills one client may have begun: nobody takes all of them.

use crate::client_id::ClientId;
use crate::gate::{Full, Limit, PerClient, Place};

/// The fills of each client. Cheap to clone; clones share the counts.
#[derive(Clone, Debug)]
pub struct ClientFills {
    clients: PerClient<ClientId>,
}

/// The right of a client to begin one fill. Dropping it gives the place back.
#[derive(Debug)]
pub struct FillPlace {
    _place: Option<Place<ClientId>>,
}

impl ClientFills {
    /// Each client may have `each_max` fills at a time; 0 is no limit.
    pub fn new(each_max: u32) -> Self {
        Self { clients: PerClient::new(Limit::FillsPerClient, each_max) }
    }

    /// A place for a fill that `client` is about to begin. What the process asks for itself has no
    /// client, and no limit.
    ///
    /// # Errors
    /// When this client has begun as many as it may have.
    pub fn place(&self, client: Option<&ClientId>) -> Result<FillPlace, Full> {
        Ok(FillPlace { _place: client.map(|client| self.clients.enter(client)).transpose()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fills(each_max: u32) -> ClientFills {
        ClientFills::new(each_max)
    }

    fn client() -> ClientId {
        ClientId::new(Some("ci"), [192, 0, 2, 1].into())
    }

    #[test]
    fn a_place_is_taken_for_as_long_as_it_is_held() {
        let fills = fills(1);
        let place = fills.place(Some(&client())).unwrap();
        assert_eq!(fills.place(Some(&client())).unwrap_err(), Full(Limit::FillsPerClient));
        assert!(fills.place(Some(&ClientId::at([192, 0, 2, 2].into()))).is_ok());
        assert!(fills.place(None).is_ok());
        drop(place);
        assert!(fills.place(Some(&client())).is_ok());
    }

    #[test]
    fn a_place_that_is_not_used_is_free_again() {
        let fills = fills(1);
        for _ in 0..3 {
            drop(fills.place(Some(&client())).unwrap());
        }
    }
}
