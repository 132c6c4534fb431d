//! What a process runs: the name of its program, or of the script, module, class or archive that an interpreter runs.

use super::bounded;

/// What a process runs, by its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// The name: of a script, module, class or archive, else of the program; empty if there are no arguments.
    pub name: Box<str>,
    /// The path of a script of Node.js or Bun, whose package may have a better name.
    pub script: Option<String>,
}

/// The options of an interpreter, as far as they matter for finding the script.
struct Options {
    /// Options whose value is the next argument.
    with_value: &'static [&'static str],
    /// Options after which there is no script: code is in the arguments, or none is run.
    without_script: &'static [&'static str],
}

impl Options {
    /// The first argument that is neither an option nor an option's value; `None` if there is no script.
    fn script<'a>(&self, args: &[&'a str]) -> Option<&'a str> {
        let mut args = args.iter();
        while let Some(&arg) = args.next() {
            if arg == "--" {
                return args.next().copied();
            }
            if arg == "-" || self.without_script.contains(&arg) {
                return None;
            }
            if self.with_value.contains(&arg) {
                args.next();
            } else if !arg.starts_with('-') {
                return Some(arg);
            }
        }
        None
    }
}

const JAVA: Options = Options {
    with_value: &[
        "-cp",
        "-classpath",
        "--class-path",
        "-p",
        "--module-path",
        "--upgrade-module-path",
        "--add-modules",
        "--add-opens",
        "--add-exports",
        "--add-reads",
        "--patch-module",
        "--limit-modules",
        "--enable-native-access",
        "--describe-module",
        "-d",
        "--source",
    ],
    without_script: &[],
};

const PYTHON: Options =
    Options { with_value: &["-W", "-X", "-Q", "--check-hash-based-pycs"], without_script: &["-c"] };

const NODE: Options = Options {
    with_value: &[
        "-r",
        "--require",
        "--import",
        "--loader",
        "--experimental-loader",
        "-C",
        "--conditions",
        "--env-file",
        "--env-file-if-exists",
        "--title",
        "--stack-trace-limit",
    ],
    without_script: &["-e", "--eval", "-p", "--print", "-pe", "-i", "--interactive", "--test"],
};

const RUBY: Options =
    Options { with_value: &["-I", "-r", "-C", "-E", "-F", "-K"], without_script: &["-e"] };

const PHP: Options =
    Options { with_value: &["-d", "-c", "-z"], without_script: &["-r", "-S", "-B", "-R", "-E"] };

const DOTNET: Options = Options {
    with_value: &[
        "--additionalprobingpath",
        "--additional-deps",
        "--depsfile",
        "--runtimeconfig",
        "--fx-version",
        "--roll-forward",
    ],
    without_script: &[],
};

const DENO: Options = Options {
    with_value: &["-c", "--config", "--import-map", "-L", "--log-level", "--lock", "--seed"],
    without_script: &[],
};

const BUN: Options = Options {
    with_value: &["-r", "--preload", "-c", "--config", "--cwd", "--env-file"],
    without_script: &["-e", "--eval", "-p", "--print"],
};

impl Runs {
    /// Reads the text of `/proc/<pid>/cmdline`: arguments, each with a NUL at its end. A last argument without it was
    /// cut, and does not count.
    pub fn of_cmdline(cmdline: &[u8]) -> Self {
        let whole = cmdline.iter().rposition(|&byte| byte == 0).unwrap_or(cmdline.len());
        let cmdline = String::from_utf8_lossy(cmdline.get(..whole).unwrap_or_default());
        let mut args = cmdline.split('\0');
        // A process that has overwritten its arguments may have a title there, such as `nginx: worker process`.
        let program = args.next().unwrap_or_default().split([' ', ':']).next().unwrap_or_default();
        let program = file_name(program);
        // A login shell.
        let program = program.strip_prefix('-').unwrap_or(program);
        let args: Vec<&str> = args.collect();
        let named = |name: &str| Self { name: bounded(name), script: None };
        let of_program = named(program);
        let found = match interpreter(program) {
            "java" => java(&args).map(named),
            "python" | "pypy" => python(&args).map(named),
            "node" | "nodejs" => NODE.script(&args).map(|script| Self {
                name: bounded(stem(script, &["js", "mjs", "cjs", "ts", "mts", "cts"])),
                script: Some(script.to_owned()),
            }),
            "bun" => bun(&args),
            "deno" => deno(&args).map(named),
            "ruby" | "jruby" => RUBY.script(&args).map(|script| named(stem(script, &["rb"]))),
            "php" => php(&args).map(|script| named(stem(script, &["php", "phar"]))),
            "dotnet" => dotnet(&args).map(named),
            _ => None,
        };
        found.filter(|runs| !runs.name.is_empty()).unwrap_or(of_program)
    }

    /// The name of a program by the path of its file, for a process without arguments.
    pub fn of_exe(exe: &[u8]) -> Self {
        let exe = String::from_utf8_lossy(exe);
        // The kernel adds this if the file has been removed.
        let path = exe.strip_suffix(" (deleted)").unwrap_or(&exe);
        Self { name: bounded(file_name(path)), script: None }
    }
}

/// The name of an interpreter without its version: `python3.11` is `python`.
fn interpreter(program: &str) -> &str {
    program.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'))
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').find(|part| !part.is_empty()).unwrap_or_default()
}

/// The name of a file without one of these extensions.
fn stem<'a>(path: &'a str, extensions: &[&str]) -> &'a str {
    let name = file_name(path);
    match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() && extensions.contains(&extension) => stem,
        _ => name,
    }
}

/// `-jar shop.jar`, `-m module/class`, or a class.
fn java<'a>(args: &[&'a str]) -> Option<&'a str> {
    let class = |name: &'a str| name.rsplit(['.', '/']).next();
    let mut before = args;
    if let Some(at) = args.iter().position(|arg| matches!(*arg, "-jar" | "-m" | "--module")) {
        before = args.get(..at).unwrap_or_default();
        // It may be an argument of the class.
        if JAVA.script(before).is_none() {
            let named = args.get(at + 1)?;
            let is_jar = args.get(at).is_some_and(|arg| *arg == "-jar");
            return if is_jar { Some(stem(named, &["jar", "war"])) } else { class(named) };
        }
    }
    let first = JAVA.script(before)?;
    // A file with arguments: its content is not read.
    match first.strip_suffix(".java") {
        _ if first.starts_with('@') => None,
        Some(source) => Some(file_name(source)),
        None => class(first),
    }
}

/// `-m shop`, or a script.
fn python<'a>(args: &[&'a str]) -> Option<&'a str> {
    let at = args.iter().position(|arg| *arg == "-m");
    let before = args.get(..at.unwrap_or(args.len())).unwrap_or_default();
    match PYTHON.script(before) {
        Some(script) => Some(stem(script, &["py", "pyc", "pyz"])),
        None if before.iter().any(|arg| PYTHON.without_script.contains(arg) || *arg == "-") => None,
        None => args.get(at? + 1).copied(),
    }
}

/// `run`, or nothing, and a script; another word is a script of the package.
fn bun(args: &[&str]) -> Option<Runs> {
    const EXTENSIONS: [&str; 6] = ["js", "mjs", "cjs", "ts", "tsx", "jsx"];
    let args = if args.first() == Some(&"run") { args.get(1..)? } else { args };
    let script = BUN.script(args)?;
    let name = stem(script, &EXTENSIONS);
    let is_file = name != file_name(script) || script.contains('/');
    is_file.then(|| Runs { name: bounded(name), script: Some(script.to_owned()) })
}

/// `run` or `serve`, and a script.
fn deno<'a>(args: &[&'a str]) -> Option<&'a str> {
    let at = args.iter().position(|arg| matches!(*arg, "run" | "serve"))?;
    let script = DENO.script(args.get(at + 1..)?)?;
    Some(stem(script, &["js", "mjs", "ts", "mts", "tsx", "jsx"]))
}

/// `-f script`, or a script.
fn php<'a>(args: &[&'a str]) -> Option<&'a str> {
    match args.iter().position(|arg| *arg == "-f") {
        Some(at) if PHP.script(args.get(..at)?).is_none() => args.get(at + 1).copied(),
        _ => PHP.script(args),
    }
}

/// `exec`, or nothing, and a library.
fn dotnet<'a>(args: &[&'a str]) -> Option<&'a str> {
    let args = if args.first() == Some(&"exec") { args.get(1..)? } else { args };
    let library = DOTNET.script(args)?;
    Some(stem(library, &["dll"])).filter(|stem| *stem != file_name(library))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Runs;

    /// What a process with these arguments runs.
    fn runs(args: &str) -> Runs {
        let cmdline: Vec<u8> =
            args.split(' ').flat_map(|arg| [arg.as_bytes(), b"\0"].concat()).collect();
        Runs::of_cmdline(&cmdline)
    }

    fn name(args: &str) -> String {
        runs(args).name.into()
    }

    #[test]
    fn interpreters_run_something_that_has_a_name() {
        for (args, want) in [
            ("java -jar shop.jar", "shop"),
            ("/usr/lib/jvm/bin/java -Xmx1g -cp a.jar:b.jar com.shop.Main --port 1", "Main"),
            ("java --module-path mods -m com.shop/com.shop.Orders", "Orders"),
            ("java -Dx=y -jar /srv/shop-1.2.jar -jar other.jar", "shop-1.2"),
            ("java com.shop.Main -jar other.jar", "Main"),
            ("java Shop.java", "Shop"),
            ("java @args", "java"),
            ("java -version", "java"),
            ("python -m shop", "shop"),
            ("python3.11 -u -m shop.server --port 1", "shop.server"),
            ("python3 shop.py", "shop"),
            ("/venv/bin/python3 -X dev -W ignore /srv/shop.py -m other", "shop"),
            ("python3 /usr/local/bin/shop serve", "shop"),
            ("python3 -c pass -m other", "python3"),
            ("python3", "python3"),
            ("node server.js", "server"),
            ("node --require ./trace.js --inspect dist/shop.mjs", "shop"),
            ("node -e 1", "node"),
            ("ruby -I lib bin/shop", "shop"),
            ("ruby3.1 shop.rb", "shop"),
            ("dotnet shop.dll --urls x", "shop"),
            ("dotnet exec --runtimeconfig r.json Shop.Api.dll", "Shop.Api"),
            ("dotnet run", "dotnet"),
            ("deno run -A --config deno.json main.ts", "main"),
            ("deno repl", "deno"),
            ("bun run src/shop.ts", "shop"),
            ("bun shop.ts", "shop"),
            ("bun start", "bun"),
            ("php -d a=b artisan serve", "artisan"),
            ("php -f shop.php", "shop"),
            ("php -S 0.0.0.0:80", "php"),
        ] {
            assert_eq!(name(args), want, "{args}");
        }
    }

    #[test]
    fn other_programs_are_their_own_name() {
        for (args, want) in [
            ("/usr/bin/shop --config x", "shop"),
            ("./shop", "shop"),
            ("-bash", "bash"),
            ("javac Shop.java", "javac"),
            ("", ""),
        ] {
            assert_eq!(name(args), want, "{args}");
        }
        assert_eq!(&*Runs::of_cmdline(b"nginx: worker process\0\0\0").name, "nginx");
        assert_eq!(&*Runs::of_exe(b"/usr/bin/shop (deleted)").name, "shop");
        assert_eq!(&*Runs::of_exe(b"").name, "");
    }

    #[test]
    fn an_argument_that_was_cut_does_not_count() {
        assert_eq!(&*Runs::of_cmdline(b"java\0-cp\0a.jar\0com.shop.Ma").name, "java");
        assert_eq!(&*Runs::of_cmdline(b"/usr/bin/shop").name, "shop", "a title without a NUL");
    }

    #[test]
    fn scripts_of_packages_are_known() {
        let script = |args| runs(args).script;
        assert_eq!(script("node a/server.js"), Some("a/server.js".into()));
        assert_eq!(script("bun /a/server.ts"), Some("/a/server.ts".into()));
        assert_eq!(script("python3 a.py"), None);
    }

    proptest! {
        #[test]
        fn any_arguments_are_read(
            program in prop::sample::select(vec![
                "java", "python3", "node", "bun", "deno", "ruby", "php", "dotnet", "x",
            ]),
            args in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let runs = Runs::of_cmdline(&[program.as_bytes(), b"\0", &args].concat());
            prop_assert!(runs.name.len() <= super::super::AT_MOST && !runs.name.is_empty());
        }
    }
}
