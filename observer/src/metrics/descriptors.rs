//! The declared types of methods, from a `FileDescriptorSet` as written by `protoc --descriptor_set_out`.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use prost::Message as _;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};
use rustc_hash::FxHashMap;

use super::GrpcType;
use crate::files::all_of;

/// Maximum size of a descriptor set in bytes; those of the largest repositories have some MiB.
const AT_MOST: usize = 32 << 20;

/// Declared types by path: `/package.Service/Method`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Descriptors(FxHashMap<Box<[u8]>, GrpcType>);

impl Descriptors {
    /// Reads a file. A file without services is an error.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let bytes = all_of(path, AT_MOST)
            .with_context(|| format!("cannot read the descriptor set {name}: use another file"))?;
        let set = FileDescriptorSet::decode(bytes.as_slice()).with_context(|| {
            format!("{name} is not a descriptor set: make one with `protoc --descriptor_set_out`")
        })?;
        let descriptors = Self::of(&set);
        ensure!(!descriptors.0.is_empty(), "the descriptor set {name} declares no service");
        Ok(descriptors)
    }

    fn of(set: &FileDescriptorSet) -> Self {
        let mut types = FxHashMap::default();
        for file in &set.file {
            let package = match file.package() {
                "" => String::new(),
                package => format!("{package}."),
            };
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{package}{}/{}", service.name(), method.name());
                    types.insert(path.into_bytes().into(), declared(method));
                }
            }
        }
        Self(types)
    }

    /// The declared type of a method, by its path; `None` if it is not declared.
    pub fn grpc_type(&self, path: &[u8]) -> Option<GrpcType> {
        self.0.get(path).copied()
    }
}

fn declared(method: &MethodDescriptorProto) -> GrpcType {
    match (method.client_streaming(), method.server_streaming()) {
        (false, false) => GrpcType::Unary,
        (true, false) => GrpcType::ClientStream,
        (false, true) => GrpcType::ServerStream,
        (true, true) => GrpcType::BidiStream,
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, path::Path};

    use prost::Message as _;
    use prost_types::{
        FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto,
    };

    use super::{Descriptors, GrpcType};

    fn method(name: &str, client: bool, server: bool) -> MethodDescriptorProto {
        MethodDescriptorProto {
            name: Some(name.into()),
            client_streaming: Some(client),
            server_streaming: Some(server),
            ..MethodDescriptorProto::default()
        }
    }

    fn set(package: Option<&str>) -> FileDescriptorSet {
        let methods =
            [("A", false, false), ("B", true, false), ("C", false, true), ("D", true, true)];
        let service = ServiceDescriptorProto {
            name: Some("S".into()),
            method: methods.map(|(name, client, server)| method(name, client, server)).to_vec(),
            ..ServiceDescriptorProto::default()
        };
        let file = FileDescriptorProto {
            package: package.map(Into::into),
            service: vec![service],
            ..FileDescriptorProto::default()
        };
        FileDescriptorSet { file: vec![file] }
    }

    #[test]
    fn each_type_by_its_path() {
        let descriptors = Descriptors::of(&set(Some("a.b")));
        assert_eq!(descriptors.grpc_type(b"/a.b.S/A"), Some(GrpcType::Unary));
        assert_eq!(descriptors.grpc_type(b"/a.b.S/B"), Some(GrpcType::ClientStream));
        assert_eq!(descriptors.grpc_type(b"/a.b.S/C"), Some(GrpcType::ServerStream));
        assert_eq!(descriptors.grpc_type(b"/a.b.S/D"), Some(GrpcType::BidiStream));
        assert_eq!(descriptors.grpc_type(b"/a.b.S/E"), None);
        assert_eq!(Descriptors::of(&set(None)).grpc_type(b"/S/A"), Some(GrpcType::Unary));
    }

    #[test]
    fn files_that_are_none_are_refused_with_what_to_do() {
        let read = |bytes: &[u8]| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(bytes).unwrap();
            Descriptors::read(file.path())
        };
        assert!(read(&set(Some("p")).encode_to_vec()).is_ok());
        let error = |result: anyhow::Result<Descriptors>| format!("{:#}", result.unwrap_err());
        assert!(error(read(b"syntax = \"proto3\";")).contains("protoc --descriptor_set_out"));
        assert!(error(read(b"")).contains("declares no service"));
        assert!(error(Descriptors::read(Path::new("/nonexistent"))).contains("/nonexistent"));
    }
}
