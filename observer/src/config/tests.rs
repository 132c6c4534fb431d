use super::*;

fn ports(text: &str) -> Result<Ports, String> {
    text.split(',').map(PortRange::from_str).collect()
}

#[test]
fn ports_merge_whatever_their_order() {
    let ports = ports("8000-8100,50051,8050-8200,8201,1,65535,65534").expect("valid");
    assert_eq!(ports.to_string(), "1,8000-8201,50051,65534-65535");
    assert_eq!(ports.iter().count(), 1 + 202 + 1 + 2);
    assert!(ports.iter().is_sorted());
}

#[test]
fn all_ports_of_the_ranges_are_iterated() {
    let ports = ports("1-3,5,65535,1000-2000").expect("valid");
    assert!(ports.iter().eq((1..=3).chain([5]).chain(1000..=2000).chain([65_535])));
}

#[test]
fn all_ports_is_a_range_like_any_other() {
    assert_eq!(ports("1-65535").expect("valid").iter().count(), 65_535);
}

#[test]
fn bad_ports_say_what_to_write() {
    for bad in ["0", "65536", "-1", "+80", "", "80-", "-", "1-2-3", "http", "0-5", "5-70000"] {
        let error = ports(bad).expect_err(bad);
        assert!(error.contains("write a number from 1 to 65535"), "{bad}: {error}");
    }
    assert!(ports("9000-8000").expect_err("reversed").ends_with("write 8000-9000"));
}

#[test]
fn comm_is_bounded_as_in_the_kernel() {
    let comm: Comm = "fifteen-bytes-x".parse().expect("15 bytes");
    assert_eq!((comm.as_str(), &comm.bytes()), ("fifteen-bytes-x", b"fifteen-bytes-x\0"));
    let error = "sixteen-bytes-xx".parse::<Comm>().expect_err("16 bytes");
    assert!(error.contains("16 bytes") && error.contains("'sixteen-bytes-x'"), "{error}");
    assert!("".parse::<Comm>().is_err());
    assert!("a\0b".parse::<Comm>().is_err());
    // The proposal must not cut a character in two.
    assert!("aaaaaaaaaaaaaaé".parse::<Comm>().expect_err("cut").contains("'aaaaaaaaaaaaaa'"));
}

#[test]
fn pids_are_numbers_a_kernel_can_give() {
    assert_eq!(pid("4194304"), Ok(4_194_304));
    for bad in ["0", "-1", "4194305", "python3", ""] {
        assert!(pid(bad).expect_err(bad).contains("--comm"), "{bad}");
    }
}

#[test]
fn patterns_for_methods_leave_something() {
    let shown = |text: &str| method_pattern(text).map(|pattern| pattern.to_string());
    assert_eq!(shown(" /grpc.health.v1.*"), Ok("grpc.health.v1.*".into()));
    for bad in ["*", "**", "/*"] {
        assert!(shown(bad).expect_err(bad).contains("would leave out every call"), "{bad}");
    }
    assert!(shown("/").expect_err("empty").contains("the pattern is empty"));
}

#[test]
fn ring_sizes_are_powers_of_two() {
    for (text, bytes) in [("65536", 1 << 16), ("64K", 1 << 16), ("8MiB", 8 << 20)] {
        assert_eq!(text.parse::<RingSize>().map(RingSize::bytes), Ok(bytes), "{text}");
    }
    assert_eq!("1GiB".parse::<RingSize>().map(|size| size.to_string()), Ok("1GiB".into()));
    assert!("6MiB".parse::<RingSize>().expect_err("6").ends_with("write 4MiB or 8MiB"));
    for bad in ["0", "4096", "2GiB", "8MB", "-8", "", "MiB", "99999999999999999999G"] {
        assert!(bad.parse::<RingSize>().is_err(), "{bad}");
    }
}

#[test]
fn times_have_units() {
    for (text, seconds) in [("300", 300), ("90s", 90), ("5m", 300), ("2h", 7200), ("1d", 86_400)] {
        assert_eq!(series_ttl(text), Ok(Duration::from_secs(seconds)), "{text}");
    }
    for bad in ["0", "-5", "5x", "m", "", "1.5m", "366d", "99999999999999999999d"] {
        assert!(series_ttl(bad).is_err(), "{bad}");
    }
}

#[test]
fn listen_needs_address_and_port() {
    assert!(listen("[::1]:0").is_ok());
    for bad in ["9464", ":9464", "localhost:9464", "127.0.0.1", "127.0.0.1:99999", ""] {
        assert!(listen(bad).expect_err(bad).contains("0.0.0.0:9464"), "{bad}");
    }
}

#[test]
fn a_filter_reads_as_a_sentence() {
    let all = Filter::default();
    assert_eq!(all.to_string(), "all cleartext gRPC of this node");
    let filter = Filter {
        ports: ports("50051,8000-8100").expect("valid"),
        pids: vec![12, 13],
        comms: vec!["python3".parse().expect("valid")],
        uids: vec![1000],
        cgroups: vec!["orders.service".parse().expect("valid")],
        children: true,
    };
    assert_eq!(
        filter.to_string(),
        "ports 8000-8100,50051 of pid 12,13 or comm python3 or uid 1000 or cgroup orders.service, \
         and their children"
    );
    let pids_only = Filter { pids: vec![12], ..Filter::default() };
    assert_eq!(pids_only.to_string(), "all ports of pid 12");
    let ports_only = Filter { ports: ports("80").expect("valid"), ..Filter::default() };
    assert_eq!(ports_only.to_string(), "ports 80 of all processes");
}

#[test]
fn users_and_control_groups_are_named_in_one_way() {
    assert_eq!(uid("65534"), Ok(65_534));
    for bad in ["", "-1", "4294967295", "root"] {
        assert!(uid(bad).expect_err(bad).contains("id -u"), "{bad}");
    }
    let longest = "x".repeat(255);
    let name: CgroupName = longest.parse().expect("255 bytes");
    assert_eq!((name.as_str(), name.bytes()[62], name.bytes()[63]), (&*longest, b'x', 0));
    for bad in ["", "/", "system.slice/orders.service", "a\0", &"x".repeat(256)] {
        assert!(bad.parse::<CgroupName>().is_err(), "{bad}");
    }
}

#[test]
fn only_this_machine_is_served_unless_it_is_asked_for() {
    assert!(Config::default().listen.ip().is_loopback());
}

#[test]
fn probes_are_answered_at_an_address_or_a_socket() {
    for text in ["127.0.0.1:9465", "[::]:9465", "unix:/run/observer/health.sock"] {
        assert_eq!(text.parse::<HealthListen>().map(|place| place.to_string()), Ok(text.into()));
    }
    for bad in ["", "9465", "unix:", "unix:health.sock", "/run/health.sock"] {
        let error = bad.parse::<HealthListen>().expect_err(bad);
        assert!(error.contains("unix:/run/observer.sock"), "{bad}: {error}");
    }
}
