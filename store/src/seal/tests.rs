use super::*;

/// `hunter2` sealed for the row `ver_1` by 32 sevens, by the release before keys had names.
fn from_before(row: &str, master: &[u8], plain: &[u8]) -> Vec<u8> {
    let seal = derive(master, b"phalanx seal v1");
    let data_key = [3; 32];
    let wrapped = encrypt(&seal, row, &data_key).expect("wrapped");
    let body = encrypt(&data_key, row, plain).expect("sealed");
    [&[UNNAMED][..], &wrapped, &body].concat()
}

fn place(row: &str) -> Place {
    Place::new("versions.secrets", "acct", row)
}

fn secrets(keys: &[[u8; 32]]) -> Secrets {
    let ring = Ring::of(keys.iter().map(|key| &key[..])).expect("keys");
    let pepper = ring.first_pepper();
    Secrets::of(Arc::new(ring), pepper)
}

#[test]
fn opens_only_what_it_sealed_and_only_where() {
    let secrets = Secrets::new(&[7; 32]).expect("a key");
    let sealed = secrets.seal(&place("ver_1"), b"hunter2").expect("sealed");
    assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
    let opened = secrets.open(&place("ver_1"), &sealed).expect("opened");
    assert_eq!(&opened[..], b"hunter2");
    for elsewhere in [
        place("ver_2"),
        Place::new("versions.secrets", "other", "ver_1"),
        Place::new("agents.webhook_secret", "acct", "ver_1"),
    ] {
        assert!(secrets.open(&elsewhere, &sealed).is_err(), "{elsewhere}");
    }
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert!(
            secrets.open(&place("ver_1"), &changed).is_err(),
            "byte {at}"
        );
        assert!(
            secrets.open(&place("ver_1"), &sealed[..at]).is_err(),
            "{at} bytes"
        );
    }
    let again = secrets.seal(&place("ver_1"), b"hunter2").expect("sealed");
    assert_ne!(again, sealed);
}

#[test]
fn many_keys_open_and_the_first_seals() {
    let (one, two) = ([1; 32], [2; 32]);
    let old = secrets(&[one]);
    let sealed = old.seal(&place("v"), b"x").expect("sealed");
    let both = secrets(&[two, one]);
    assert_eq!(&both.open(&place("v"), &sealed).expect("opened")[..], b"x");
    let anew = both.seal(&place("v"), b"x").expect("sealed");
    let (first, second) = (
        sealed_by(&sealed[..MARK]).expect("a name"),
        sealed_by(&anew[..MARK]).expect("a name"),
    );
    assert_eq!(
        (first, second),
        (old.active().expect("one"), both.active().expect("one"))
    );
    assert_ne!(first, second);
    assert_eq!(anew[..MARK], mark(second));
    let refused = old.open(&place("v"), &anew).expect_err("an unknown key");
    assert!(refused.message.contains(&second.to_string()), "{refused}");
}

#[test]
fn what_was_sealed_before_keys_had_names_opens() {
    let sealed = from_before("ver_1", &[7; 32], b"hunter2");
    assert_eq!(sealed_by(&sealed[..MARK]), None);
    let rotated = secrets(&[[9; 32], [8; 32], [7; 32]]);
    let opened = rotated.open(&place("ver_1"), &sealed).expect("opened");
    assert_eq!(&opened[..], b"hunter2");
    assert!(rotated.open(&place("ver_2"), &sealed).is_err());
    assert!(secrets(&[[9; 32]]).open(&place("ver_1"), &sealed).is_err());
}

#[test]
fn a_file_of_keys_is_read_as_it_was_written() {
    let hex = "ab".repeat(32);
    let mut ring = Ring::read(&format!("\n# the first\n  {hex}\n")).expect("an old file");
    let oldest = ring.ids()[0];
    let pepper = ring.first_pepper();
    let new = ring.add(&[1; 32]).expect("added");
    assert_eq!(ring.ids(), [oldest, new], "it opens, and does not seal yet");
    ring.activate(new).expect("known");
    assert_eq!(ring.ids(), [new, oldest]);
    let newest = ring.add(&[2; 32]).expect("added");
    ring.activate(newest).expect("known");
    assert_eq!(ring.ids(), [newest, new, oldest]);
    assert_eq!(ring.first_pepper(), pepper, "the oldest stays the last");
    let again = Ring::read(&ring.text()).expect("what it wrote");
    assert_eq!(again.ids(), ring.ids());
    assert!(ring.remove(newest).is_err(), "it seals");
    assert!(ring.add(&[1; 32]).is_err(), "it is there");
    assert!(
        ring.remove(new)
            .expect("gone")
            .contains(&hex::encode([1; 32]))
    );
    assert!(ring.activate(new).is_err());
    for bad in [
        String::new(),
        "ab".repeat(31),
        "xy".repeat(32),
        format!("{hex}\n{hex}"),
        format!("mk_0000000000000000 {hex}"),
        format!("{new} {hex}"),
        format!("{oldest} {hex} more"),
    ] {
        assert!(Ring::read(&bad).is_err(), "{bad}");
    }
    assert_eq!(
        oldest.to_string().parse::<MasterKeyId>().expect("a name"),
        oldest
    );
    assert!("mk_12".parse::<MasterKeyId>().is_err());
    assert!(!format!("{ring:?}").contains("abab"));
}

#[test]
fn hashes_are_keyed() {
    let one = Secrets::new(&[1; 32]).expect("a key");
    assert_eq!(one.hash("akc_x"), one.hash("akc_x"));
    assert_ne!(
        one.hash("akc_x"),
        Secrets::new(&[2; 32]).expect("a key").hash("akc_x")
    );
    let rotated = secrets(&[[2; 32], [1; 32]]);
    assert_eq!(rotated.hash("akc_x"), one.hash("akc_x"));
    rotated.set_pepper(Zeroizing::new([5; 32]));
    assert_ne!(rotated.hash("akc_x"), one.hash("akc_x"));
    assert_eq!(format!("{one:?}"), "Secrets([REDACTED])");
}
