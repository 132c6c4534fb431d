//! The service that the environment of a process names, for OpenTelemetry's SDKs.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::bounded;

/// What a process, or its pod, declares of its service. Texts are empty if they are not declared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// `service.name`.
    pub name: Box<str>,
    /// `service.namespace`.
    pub namespace: Box<str>,
    /// `service.instance.id`.
    pub instance_id: Box<str>,
}

impl Resource {
    /// The service in the values of `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`; the first one has the name, if
    /// both do.
    pub fn of_environment(service_name: Option<&[u8]>, attributes: Option<&[u8]>) -> Self {
        let attributes = attributes.map(String::from_utf8_lossy).unwrap_or_default();
        let mut this = Self::of_attributes(&attributes).unwrap_or_default();
        let name = service_name.map(String::from_utf8_lossy).unwrap_or_default();
        let name = bounded(&name);
        if !name.is_empty() {
            this.name = name;
        }
        this
    }

    /// Reads `key=value,…` with percent-encoded values, as in W3C Baggage. `None` if a part does not have this form:
    /// then an SDK takes no attribute at all.
    ///
    /// Source: "Specifying resource information via an environment variable" in OpenTelemetry's Resource SDK.
    fn of_attributes(text: &str) -> Option<Self> {
        let mut this = Self::default();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let (key, value) = part.split_once('=')?;
            let value: Cow<'_, str> = percent_decode_str(value.trim()).decode_utf8().ok()?;
            let to = match key.trim() {
                "service.name" => &mut this.name,
                "service.namespace" => &mut this.namespace,
                "service.instance.id" => &mut this.instance_id,
                "" => return None,
                _ => continue,
            };
            *to = bounded(&value);
        }
        Some(this)
    }
}

#[cfg(test)]
mod tests {
    use super::Resource;

    fn resource(name: Option<&str>, attributes: Option<&str>) -> (String, String, String) {
        let [name, attributes] = [name, attributes].map(|text| text.map(str::as_bytes));
        let Resource { name, namespace, instance_id } = Resource::of_environment(name, attributes);
        (name.into(), namespace.into(), instance_id.into())
    }

    fn texts(name: &str, namespace: &str, instance_id: &str) -> (String, String, String) {
        (name.into(), namespace.into(), instance_id.into())
    }

    #[test]
    fn the_name_of_its_own_variable_comes_first() {
        let all = "service.name=a,service.namespace=n,service.instance.id=i,deployment=x";
        assert_eq!(resource(Some("shop"), Some(all)), texts("shop", "n", "i"));
        assert_eq!(resource(None, Some(all)), texts("a", "n", "i"));
        assert_eq!(resource(Some(""), Some(all)), texts("a", "n", "i"), "empty is not set");
        assert_eq!(resource(Some(" shop "), None), texts("shop", "", ""));
        assert_eq!(resource(None, None), texts("", "", ""));
    }

    #[test]
    fn values_are_percent_encoded_and_a_mistake_discards_all() {
        assert_eq!(
            resource(None, Some(" service.name = a%2Cb%3D%C3%A9 ,")),
            texts("a,b=é", "", "")
        );
        for wrong in ["service.name=a,b", "service.name=a,=b", "service.name=%FF"] {
            assert_eq!(resource(None, Some(wrong)), texts("", "", ""), "{wrong}");
        }
        assert_eq!(resource(None, Some("service.name=a=b")).0, "a=b");
    }

    #[test]
    fn names_of_any_bytes_are_bounded() {
        let long = Resource::of_environment(Some(&[b'x'; 4096]), None);
        assert_eq!(long.name.len(), super::super::AT_MOST);
        assert_eq!(&*Resource::of_environment(Some(b"\xff\n"), None).name, "\u{fffd}");
    }
}
