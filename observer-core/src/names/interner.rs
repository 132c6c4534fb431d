//! Ids of paths, and the paths by their ids.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Parents, Pattern, Share, Texts, escape::escape};

/// The longest path that gets an id, in bytes of the text that [`Interner::resolve`] returns.
///
/// In practice, paths of gRPC services are shorter than 200 bytes.
pub const MAX_PATH_LEN: usize = 512;

/// The owner of a path: a number for the process whose call had the path first.
pub type Owner = u32;

/// An interned `:path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathId(pub u32);

impl PathId {
    /// The id of all paths that could not be decoded.
    pub const NOT_SEEN: Self = Self(0);
    /// The id of all paths without an id of their own: longer than [`MAX_PATH_LEN`], or beyond the interner's bound.
    pub const OTHER: Self = Self(1);
    /// The id of all paths that are [excluded](Interner::exclude).
    pub const EXCLUDED: Self = Self(u32::MAX);

    /// The id of `/`, which is in HPACK's static table.
    pub(crate) const ROOT: Self = Self(2);
    /// The id of `/index.html`, which is in HPACK's static table.
    pub(crate) const INDEX_HTML: Self = Self(3);

    /// The first id with a text.
    const FIRST: Self = Self::ROOT;
}

/// The paths that have an id, of all interners that [share](Interner::sharing) them.
#[derive(Debug)]
struct Paths {
    /// Each interner that knows a path also holds its text.
    ids: HashMap<Arc<str>, (PathId, Owner)>,
    /// The next id. An id is never given to another path, because a snapshot of one worker is read when another worker
    /// may have taken the id back. After 2³², a month of peers that send only new paths, there are no more.
    next: u32,
    share: Share<Owner>,
    /// An owner wanted more than its share since unused paths were last taken back.
    is_short: bool,
}

impl Paths {
    /// The id of a path, and its text; a new path gets an id if there is room.
    fn intern(&mut self, text: &str, owner: Owner) -> Option<(Arc<str>, PathId)> {
        if let Some((text, &(id, _))) = self.ids.get_key_value(text) {
            return Some((Arc::clone(text), id));
        }
        if !self.share.admits(owner) || self.next == u32::MAX {
            self.is_short = true;
            return None;
        }
        let (text, id) = (Arc::<str>::from(text), PathId(self.next));
        self.next += 1;
        self.share.take(owner);
        self.ids.insert(Arc::clone(&text), (id, owner));
        Some((text, id))
    }

    fn retain(&mut self, is_used: impl Fn(&Arc<str>) -> bool) {
        let Self { ids, share, .. } = self;
        ids.retain(|text, (_, owner)| {
            let used = is_used(text);
            if !used {
                share.give_back(*owner);
            }
            used
        });
        self.is_short = false;
    }
}

/// A table that gives each distinct path an id, which stays valid until it is [taken back](Interner::retain).
///
/// All connections of one thread use one interner; those of several threads may [share](Interner::sharing) the ids.
/// Peers choose the paths. So their number and length are bounded, and the hash is keyed at random (the standard
/// library's).
#[derive(Debug)]
pub struct Interner {
    ids: HashMap<Arc<str>, PathId>,
    /// The id and length of a path by its Huffman code: at most one for each path, because a string has only one
    /// Huffman encoding.
    coded: HashMap<Box<[u8]>, (PathId, usize)>,
    paths: FxHashMap<PathId, Arc<str>>,
    /// Locked for each path that is new here.
    shared: Arc<Mutex<Paths>>,
    /// The owner of the next paths.
    owner: Owner,
    excluded: Arc<[Pattern]>,
    /// Whether authorities are kept.
    pub keeps_authorities: bool,
    /// Whether the queries of Connect calls, which have the message, are cut off.
    pub cuts_queries: bool,
    /// The texts of `grpc-message` that are kept.
    pub texts: Texts,
    /// The parents of `traceparent` that are kept.
    pub parents: Parents,
    /// The texts of `tracestate` that are kept.
    pub states: Texts,
}

impl Interner {
    /// The owner of the paths of the static table.
    const STATIC_TABLE: Owner = Owner::MAX;

    /// Creates an interner of at most `max_paths` paths, and the two paths of HPACK's static table.
    pub fn new(max_paths: usize) -> Self {
        let share = Share::of(max_paths.saturating_add(2));
        let (ids, next) = (HashMap::new(), PathId::FIRST.0);
        let paths = Paths { ids, next, share, is_short: false };
        Self::of(Arc::new(Mutex::new(paths)), Texts::default())
    }

    /// Creates an interner that gives the same ids to the same paths; the bound is for both together.
    #[must_use]
    pub fn sharing(&self) -> Self {
        let excluded = Arc::clone(&self.excluded);
        let (texts, parents) = (self.texts.sharing(), self.parents.sharing());
        let Self { keeps_authorities, cuts_queries, .. } = *self;
        let states = self.states.sharing();
        let others = Self::of(Arc::clone(&self.shared), texts);
        Self { excluded, keeps_authorities, cuts_queries, parents, states, ..others }
    }

    fn of(shared: Arc<Mutex<Paths>>, texts: Texts) -> Self {
        let mut this = Self {
            ids: HashMap::new(),
            coded: HashMap::new(),
            paths: FxHashMap::default(),
            shared,
            owner: Self::STATIC_TABLE,
            excluded: Arc::default(),
            keeps_authorities: false,
            cuts_queries: false,
            texts,
            parents: Parents::default(),
            states: Texts::default(),
        };
        // In the order of their ids.
        this.intern(b"/");
        this.intern(b"/index.html");
        this
    }

    /// Sets the owner of the paths from now on: an owner gets no more ids than its share.
    pub fn set_owner(&mut self, owner: Owner) {
        self.owner = owner;
    }

    /// Excludes methods: the path `/pkg.Service/Method` has the id [`PathId::EXCLUDED`] from now on if one of the
    /// patterns stands for `pkg.Service/Method`; so does Thrift's `Service:method` if one stands for `Service/method`, and
    /// `method` if one stands for `/method`. To be called before any path is interned.
    pub fn exclude(&mut self, patterns: &[Pattern]) {
        self.excluded = patterns.into();
    }

    fn is_excluded(&self, path: &str) -> bool {
        let method = path.strip_prefix('/').filter(|method| method.contains('/'));
        method.is_some_and(|method| self.is_left_out(method))
    }

    fn is_left_out(&self, method: &str) -> bool {
        self.excluded.iter().any(|pattern| pattern.matches(method))
    }

    /// The id of a Thrift method's name, which is that of a path with this text.
    pub(crate) fn intern_thrift(&mut self, name: &[u8]) -> PathId {
        if !self.excluded.is_empty() {
            let name = escape(name);
            let (service, method) = name.split_once(':').unwrap_or(("", &name));
            if self.is_left_out(&format!("{service}/{method}")) {
                return PathId::EXCLUDED;
            }
        }
        self.intern(name)
    }

    /// Stops giving out ids, or goes on with it.
    pub fn stop(&mut self, stopped: bool) {
        self.shared().share.stop(stopped);
    }

    /// The id of a path; a new path gets a new id, if there is room.
    ///
    /// The text of a path is as in labels ([`escape`]): different paths have different texts, and a text is safe to
    /// print.
    pub fn intern(&mut self, path: &[u8]) -> PathId {
        if path.len() > MAX_PATH_LEN {
            return PathId::OTHER;
        }
        let text = escape(path);
        if let Some(&id) = self.ids.get(&*text) {
            return id;
        }
        if text.len() > MAX_PATH_LEN {
            return PathId::OTHER;
        }
        if self.is_excluded(&text) {
            return PathId::EXCLUDED;
        }
        self.intern_new(&text)
    }

    /// The id of an authority, which is that of a path with this text; [`PathId::NOT_SEEN`] if it is empty, or if
    /// authorities are not kept.
    pub(crate) fn intern_authority(&mut self, authority: &[u8]) -> PathId {
        if !self.keeps_authorities || authority.is_empty() {
            return PathId::NOT_SEEN;
        }
        if authority.len() > MAX_PATH_LEN {
            return PathId::OTHER;
        }
        let text = escape(authority);
        match self.ids.get(&*text) {
            Some(&id) => id,
            None if text.len() > MAX_PATH_LEN => PathId::OTHER,
            None => self.intern_new(&text),
        }
    }

    fn intern_new(&mut self, text: &str) -> PathId {
        let known = self.shared().intern(text, self.owner);
        let Some((text, id)) = known else { return PathId::OTHER };
        self.paths.insert(id, Arc::clone(&text));
        self.ids.insert(text, id);
        id
    }

    /// The id and length of the path with this Huffman code, if that was [remembered](Self::remember_coded).
    pub(crate) fn coded(&self, octets: &[u8]) -> Option<(PathId, usize)> {
        self.coded.get(octets).copied()
    }

    /// Remembers the Huffman code of an interned path, if the id is the path's own and the code is not longer than a
    /// path may be, as codes of rare characters are.
    pub(crate) fn remember_coded(&mut self, octets: &[u8], path: &[u8], id: PathId) {
        if octets.len() <= MAX_PATH_LEN && self.resolve(id).is_some() {
            self.coded.insert(octets.into(), (id, path.len()));
        }
    }

    fn shared(&self) -> MutexGuard<'_, Paths> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether three quarters of the ids are given out, or an owner found no room.
    pub fn is_crowded(&self) -> bool {
        let shared = self.shared();
        shared.share.is_crowded() || shared.is_short
    }

    /// Takes back all ids except those that are `used` here, those that a sharing interner holds, and those of HPACK's
    /// static table.
    pub fn retain(&mut self, used: impl Iterator<Item = PathId>) {
        let used: FxHashSet<PathId> = used.chain([PathId::ROOT, PathId::INDEX_HTML]).collect();
        self.ids.retain(|_, id| used.contains(id));
        self.paths.retain(|id, _| used.contains(id));
        self.coded.retain(|_, (id, _)| used.contains(id));
        self.shared().retain(|text| Arc::strong_count(text) > 1);
    }

    /// The ids that are given out, here or by an interner that shares them.
    pub fn given_out(&self) -> FxHashSet<PathId> {
        self.shared().ids.values().map(|(id, _)| *id).collect()
    }

    /// The text of a path: printable, of at most [`MAX_PATH_LEN`] bytes; it need not start with `/`. `None` for
    /// [`PathId::NOT_SEEN`], [`PathId::OTHER`], [`PathId::EXCLUDED`] and ids that are not given out.
    pub fn resolve(&self, id: PathId) -> Option<&Arc<str>> {
        self.paths.get(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::hpack::tests::encode_huffman;

    fn text(interner: &Interner, id: PathId) -> Option<&str> {
        interner.resolve(id).map(|path| &**path)
    }

    #[test]
    fn one_id_per_path() {
        let mut interner = Interner::new(10);
        let a = interner.intern(b"/a.A/One");
        let b = interner.intern(b"/a.A/Two");
        assert_ne!(a, b);
        assert_eq!(interner.intern(b"/a.A/One"), a);
        assert_eq!(text(&interner, a), Some("/a.A/One"));
        assert_eq!(text(&interner, b), Some("/a.A/Two"));
    }

    #[test]
    fn ids_of_the_static_table() {
        let mut interner = Interner::new(0);
        assert_eq!(text(&interner, PathId::ROOT), Some("/"));
        assert_eq!(text(&interner, PathId::INDEX_HTML), Some("/index.html"));
        assert_eq!(interner.intern(b"/"), PathId::ROOT);
    }

    #[test]
    fn ids_without_a_text() {
        let interner = Interner::new(10);
        for id in [PathId::NOT_SEEN, PathId::OTHER, PathId(4), PathId(u32::MAX)] {
            assert_eq!(interner.resolve(id), None, "{id:?}");
        }
    }

    #[test]
    fn more_than_the_bound_share_one_id() {
        let mut interner = Interner::new(2);
        let known = interner.intern(b"/1");
        interner.intern(b"/2");
        assert_eq!(interner.intern(b"/3"), PathId::OTHER);
        assert_eq!(interner.intern(b"/3"), PathId::OTHER);
        assert_eq!(interner.intern(b"/1"), known);
    }

    #[test]
    fn excluded_paths_share_one_id_and_take_no_room() {
        let mut interner = Interner::new(1);
        interner.exclude(&["grpc.health.v1.*".parse().unwrap(), "*/Watch".parse().unwrap()]);
        for path in ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List", "/a.A/Watch"] {
            let (path, octets) = (path.as_bytes(), encode_huffman(path.as_bytes()));
            let id = interner.intern(path);
            assert_eq!(id, PathId::EXCLUDED);
            interner.remember_coded(&octets, path, id);
            assert_eq!((interner.coded(&octets), interner.resolve(id)), (None, None));
            assert_eq!(interner.sharing().intern(path), PathId::EXCLUDED);
        }
        // Without a service it is not a method.
        assert_ne!(interner.intern(b"/Watch"), PathId::EXCLUDED);
        assert_eq!(interner.intern(b"/a.A/Watched"), PathId::OTHER, "there was room for one");
    }

    #[test]
    fn excluded_methods_of_thrift() {
        let mut interner = Interner::new(8);
        interner.exclude(&["Shop/*".parse().unwrap(), "*/ping".parse().unwrap()]);
        // Also if a peer has the same text as a path.
        interner.intern(b"ping");
        for (name, is_excluded) in [
            ("Shop:add", true),
            ("Other:add", false),
            ("Other:ping", true),
            ("ping", true),
            ("add", false),
            ("Shop", false),
        ] {
            let id = interner.intern_thrift(name.as_bytes());
            assert_eq!(id == PathId::EXCLUDED, is_excluded, "{name}");
        }
    }

    #[test]
    fn paths_that_are_not_used_make_room() {
        let mut interner = Interner::new(4);
        let [one, two, three] = [b"/1", b"/2", b"/3"].map(|path| {
            let id = interner.intern(path);
            interner.remember_coded(&encode_huffman(path), path, id);
            id
        });
        assert!(interner.is_crowded());
        interner.retain([two, PathId::OTHER, PathId(99)].into_iter());
        assert!(!interner.is_crowded());
        assert_eq!(text(&interner, two), Some("/2"));
        assert_eq!(interner.intern(b"/2"), two);
        for (path, id) in [(b"/1", one), (b"/3", three)] {
            assert_eq!((interner.resolve(id), interner.coded(&encode_huffman(path))), (None, None));
        }
        let four = interner.intern(b"/4");
        assert!(![one, three].contains(&four), "an id is that of one path for ever");
        assert_eq!(text(&interner, four), Some("/4"));
        assert_eq!(interner.intern(b"/"), PathId::ROOT);
        let known = [b"/4", b"/5", b"/6"].map(|path| interner.intern(path));
        assert_eq!(interner.intern(b"/7"), PathId::OTHER, "{known:?} are four with /2");
    }

    #[test]
    fn shared_ids_are_the_same_and_taken_back_when_unused() {
        let mut one = Interner::new(2);
        let mut other = one.sharing();
        let a = one.intern(b"/a");
        let b = other.intern(b"/b");
        assert_ne!(a, b);
        assert_eq!((other.intern(b"/a"), other.intern(b"/")), (a, PathId::ROOT));
        assert_eq!((text(&one, a), text(&one, b)), (Some("/a"), None));
        assert_eq!(one.intern(b"/c"), PathId::OTHER, "the bound is that of both");
        one.retain(std::iter::empty());
        assert_eq!((one.intern(b"/c"), one.intern(b"/a")), (PathId::OTHER, a), "used by the other");
        other.retain([b].into_iter());
        one.retain(std::iter::empty());
        assert_eq!(one.given_out(), [PathId::ROOT, PathId::INDEX_HTML, b].into_iter().collect());
        assert_ne!(one.intern(b"/a"), a);
    }

    #[test]
    fn an_owner_of_many_paths_leaves_some_to_others() {
        let mut interner = Interner::new(1000);
        let mut named = |owner: Owner, paths: usize| {
            interner.set_owner(owner);
            let is_named = |path: &usize| {
                let id = interner.intern(format!("/{owner}/{path}").as_bytes());
                id != PathId::OTHER
            };
            ((0..paths).filter(is_named).count(), interner.is_crowded())
        };
        let (first, is_crowded) = named(1, 100_000);
        assert!((150..=250).contains(&first) && is_crowded, "{first}");
        assert_eq!(named(2, 100).0, 100);
        interner.retain(std::iter::empty());
        assert!(!interner.is_crowded());
        interner.set_owner(1);
        assert_ne!(interner.intern(b"/again"), PathId::OTHER);
        interner.stop(true);
        assert_eq!((interner.intern(b"/2"), interner.intern(b"/")), (PathId::OTHER, PathId::ROOT));
    }

    #[test]
    fn length_is_bounded() {
        let mut interner = Interner::new(10);
        let longest = vec![b'x'; MAX_PATH_LEN];
        let id = interner.intern(&longest);
        assert_eq!(text(&interner, id).map(str::len), Some(MAX_PATH_LEN));
        assert_eq!(interner.intern(&[b'x'; MAX_PATH_LEN + 1]), PathId::OTHER);
        // Fits only before it is escaped.
        assert_eq!(interner.intern(&[b'\n'; MAX_PATH_LEN / 2]), PathId::OTHER);
    }

    #[test]
    fn codes_are_remembered_of_paths_with_an_id_of_their_own() {
        let mut interner = Interner::new(1);
        let mut remember = |path: &[u8]| {
            let octets = encode_huffman(path);
            let id = interner.intern(path);
            interner.remember_coded(&octets, path, id);
            (id, interner.coded(&octets))
        };
        let (id, coded) = remember(b"/a.A/One");
        assert_eq!(coded, Some((id, 8)));
        assert_eq!(remember(b"/a.A/One").1, Some((id, 8)));
        assert_eq!(remember(b"/a.A/Two"), (PathId::OTHER, None), "more than the bound");
        assert_eq!(interner.coded.len(), 1);
    }

    #[test]
    fn texts_are_printable_and_each_path_has_its_own() {
        let mut interner = Interner::new(10);
        let paths = [
            ("/a b\\x1b\x1b\"", "/a b\\x5cx1b\\x1b\""),
            ("/caf\u{e9}", "/caf\u{e9}"),
            ("/caf%C3%A9", "/caf%C3%A9"),
            ("/a\\b", "/a\\b"),
        ];
        let ids = paths.map(|(path, escaped)| {
            let id = interner.intern(path.as_bytes());
            assert_eq!(text(&interner, id), Some(escaped));
            let octets = encode_huffman(path.as_bytes());
            interner.remember_coded(&octets, path.as_bytes(), id);
            assert_eq!(interner.coded(&octets), Some((id, path.len())));
            id
        });
        assert_eq!(FxHashSet::from_iter(ids).len(), paths.len());
    }
}
