//! Which UserSig, and so which URL, does a call use now? The cache of the current signature with the URLs that hold it.
//!
//! A signature is made anew every quarter of its lifetime and is valid from half a lifetime before to a whole lifetime
//! after it was made: clocks may differ by that half, and a request that is frozen for longer than a lifetime is
//! refused, which is what keeps late writes from being accepted after the service has forgotten their resend. Time is
//! an argument here.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::SecretString;
use url::Url;

use super::{
    options::ImApp,
    user_sig::{self, UserSig},
};
use crate::domain::{Command, SdkAppId};

/// Everything but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One signature and the URLs made with it.
pub(super) struct Signed {
    /// Counts signatures, so that a refusal can be told from one of an older signature.
    number: u64,
    /// Unix seconds.
    made_at: u64,
    sig: UserSig,
    /// One per command, by [`Command::index`], complete but for `random`.
    urls: [Url; Command::ALL.len()],
}

impl Signed {
    /// The URL of one HTTP request.
    pub(super) fn url(&self, command: Command, random: u32) -> Url {
        let mut url = self.urls[command.index()].clone();
        url.query_pairs_mut().append_pair("random", &random.to_string());
        url
    }

    /// A text of the service without this signature, should the service have repeated it.
    pub(super) fn redact(&self, text: &str) -> String {
        text.replace(self.sig.expose(), "[redacted]")
    }
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed")
            .field("number", &self.number)
            .field("made_at", &self.made_at)
            .finish_non_exhaustive()
    }
}

/// What a refused signature leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterRefusal {
    /// There is a newer signature than the refused one.
    TryNewer,
    /// A new signature was refused as well: only a person can mend it.
    Hopeless,
}

/// Signs for one administrator account of one app.
pub(super) struct Signer {
    sdk_app_id: SdkAppId,
    admin: String,
    /// The base URL without a trailing slash.
    base: String,
    lifetime: u64,
    current: ArcSwap<Signed>,
    /// Held while signing, so that one signs and the others take what it made.
    secret: Mutex<SecretString>,
    /// The current signature was made since its predecessor was refused, and nothing has been accepted with it yet.
    suspect: AtomicBool,
}

impl Signer {
    pub(super) fn new(app: &ImApp, lifetime: Duration, now: u64) -> Self {
        let secret = app.secret.clone();
        let base = app.base_url.as_str().trim_end_matches('/').to_owned();
        let lifetime = lifetime.as_secs();
        let first = make(app.sdk_app_id, app.admin.as_str(), &base, lifetime, &secret, 0, now);
        Self {
            sdk_app_id: app.sdk_app_id,
            admin: app.admin.as_str().to_owned(),
            base,
            lifetime,
            current: ArcSwap::from_pointee(first),
            secret: Mutex::new(secret),
            suspect: AtomicBool::new(false),
        }
    }

    /// The signature to use at the Unix second `now`. A clock that was set back also gives a new one.
    pub(super) fn current(&self, now: u64) -> Arc<Signed> {
        let signed = self.current.load();
        if self.is_fresh(&signed, now) {
            return Arc::clone(&signed);
        }
        let secret = self.secret.lock();
        let signed = self.current.load_full();
        if self.is_fresh(&signed, now) {
            return signed;
        }
        self.renew(&signed, &secret, now)
    }

    /// What to do after the service has refused `refused`: signs anew unless someone has done so already, or a fresh
    /// one was refused too.
    pub(super) fn refused(&self, refused: &Signed, now: u64) -> AfterRefusal {
        let secret = self.secret.lock();
        let current = self.current.load_full();
        if current.number != refused.number {
            return AfterRefusal::TryNewer;
        }
        if self.suspect.swap(true, Ordering::Relaxed) {
            return AfterRefusal::Hopeless;
        }
        self.renew(&current, &secret, now);
        AfterRefusal::TryNewer
    }

    /// The service took this signature.
    pub(super) fn accepted(&self, accepted: &Signed) {
        if self.suspect.load(Ordering::Relaxed) && self.current.load().number == accepted.number {
            self.suspect.store(false, Ordering::Relaxed);
        }
    }

    /// Changes the key; calls from now on use it.
    pub(super) fn set_secret(&self, secret: SecretString, now: u64) {
        let mut slot = self.secret.lock();
        *slot = secret;
        let current = self.current.load_full();
        self.renew(&current, &slot, now);
        self.suspect.store(false, Ordering::Relaxed);
    }

    fn is_fresh(&self, signed: &Signed, now: u64) -> bool {
        now.checked_sub(signed.made_at)
            .is_some_and(|age| age < self.lifetime / 4)
    }

    fn renew(&self, old: &Signed, secret: &SecretString, now: u64) -> Arc<Signed> {
        let number = old.number + 1;
        let signed = Arc::new(make(
            self.sdk_app_id,
            &self.admin,
            &self.base,
            self.lifetime,
            secret,
            number,
            now,
        ));
        self.current.store(Arc::clone(&signed));
        signed
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("sdk_app_id", &self.sdk_app_id)
            .field("admin", &self.admin)
            .finish_non_exhaustive()
    }
}

fn make(
    sdk_app_id: SdkAppId,
    admin: &str,
    base: &str,
    lifetime: u64,
    secret: &SecretString,
    number: u64,
    now: u64,
) -> Signed {
    let valid_from = now.saturating_sub(lifetime / 2);
    let sig = user_sig::sign(sdk_app_id, admin, secret, valid_from, now - valid_from + lifetime);
    let identifier = utf8_percent_encode(admin, RESERVED);
    let query = format!(
        "sdkappid={sdk_app_id}&identifier={identifier}&usersig={}&contenttype=json",
        utf8_percent_encode(sig.expose(), RESERVED)
    );
    let urls = Command::ALL.map(|command| {
        Url::parse(&format!("{base}/v4/openim/{command}?{query}")).expect("a checked base URL and an encoded query")
    });
    Signed {
        number,
        made_at: now,
        sig,
        urls,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::AccountId, im::options::tests::app};

    const NOW: u64 = 1_700_000_000;
    const LIFETIME: Duration = Duration::from_mins(2);

    fn new_signer() -> Signer {
        Signer::new(&app("http://127.0.0.1:8081/"), LIFETIME, NOW)
    }

    #[test]
    fn a_signature_is_valid_from_half_a_lifetime_before_to_a_lifetime_after() {
        let signed = new_signer().current(NOW);
        let secret = "marked-secret-key".into();
        let claims = user_sig::verify(signed.sig.expose(), &secret, NOW + 120).unwrap();
        assert_eq!((claims.time, claims.expire), (NOW - 60, 180));
        assert!(user_sig::verify(signed.sig.expose(), &secret, NOW + 121).is_err());
    }

    #[test]
    fn it_is_signed_anew_every_quarter_of_its_lifetime_and_when_the_clock_is_set_back() {
        let signer = new_signer();
        assert_eq!(signer.current(NOW + 29).number, 0);
        assert_eq!(signer.current(NOW + 30).number, 1);
        assert_eq!(signer.current(NOW + 59).number, 1);
        assert_eq!(signer.current(NOW + 60).number, 2);
        assert_eq!(signer.current(NOW).number, 3);
    }

    #[test]
    fn many_callers_at_the_moment_of_renewal_make_one_signature() {
        let signer = new_signer();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(signer.current(NOW + 30).number, 1));
            }
        });
    }

    #[test]
    fn a_refused_signature_is_replaced_once_and_then_given_up_until_one_is_accepted() {
        let signer = new_signer();
        let first = signer.current(NOW);
        assert_eq!(signer.refused(&first, NOW), AfterRefusal::TryNewer);
        // The other calls that were under way with the first.
        assert_eq!(signer.refused(&first, NOW), AfterRefusal::TryNewer);
        let second = signer.current(NOW);
        assert_eq!(second.number, 1);
        assert_eq!(signer.refused(&second, NOW), AfterRefusal::Hopeless);
        // The next periodical one is no news either.
        let third = signer.current(NOW + 30);
        assert_eq!(signer.refused(&third, NOW + 30), AfterRefusal::Hopeless);
        signer.accepted(&first);
        assert_eq!(signer.refused(&third, NOW + 30), AfterRefusal::Hopeless);
        signer.accepted(&third);
        assert_eq!(signer.refused(&third, NOW + 30), AfterRefusal::TryNewer);
    }

    #[test]
    fn a_new_secret_is_used_at_once_and_deserves_a_new_try() {
        let signer = new_signer();
        signer.refused(&signer.current(NOW), NOW);
        signer.set_secret("another".into(), NOW);
        let second = signer.current(NOW);
        assert!(user_sig::verify(second.sig.expose(), &"another".into(), NOW).is_ok());
        assert_eq!(signer.refused(&second, NOW), AfterRefusal::TryNewer);
    }

    #[test]
    fn the_url_is_the_documented_one_with_the_identifier_percent_encoded() {
        let mut app = app("https://host.example/im/");
        app.admin = AccountId::parse("a b&c=ü/?#%").unwrap();
        let signed = Signer::new(&app, LIFETIME, NOW).current(NOW);
        let url = signed.url(Command::MsgWithdraw, u32::MAX);
        assert_eq!(url.path(), "/im/v4/openim/admin_msgwithdraw");
        assert!(
            url.as_str().contains("identifier=a%20b%26c%3D%C3%BC%2F%3F%23%25&"),
            "{url}"
        );
        let pairs: std::collections::BTreeMap<_, _> = url.query_pairs().into_owned().collect();
        assert_eq!(pairs.len(), 5);
        assert_eq!(pairs["sdkappid"], "1400000000");
        assert_eq!(pairs["identifier"], "a b&c=ü/?#%");
        assert_eq!(pairs["usersig"], signed.sig.expose());
        assert_eq!(pairs["random"], "4294967295");
        assert_eq!(pairs["contenttype"], "json");
    }

    #[test]
    fn nothing_prints_a_signature_or_a_secret() {
        let signer = new_signer();
        let first = signer.current(NOW);
        let printed = format!("{signer:?} {first:?}");
        assert!(
            !printed.contains("marked") && !printed.contains(&first.sig.expose()[..16]),
            "{printed}"
        );
        assert_eq!(first.redact(&format!("bad {}", first.sig.expose())), "bad [redacted]");
    }
}
