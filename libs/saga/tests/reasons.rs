//! A reason has one name: in rows, in metrics and in the API.

use saga::Reason;

#[test]
fn a_reason_is_called_what_it_is_written_as() {
    for reason in Reason::ALL {
        assert_eq!(serde_json::json!(reason), reason.as_str());
        let read: Reason = serde_json::from_value(reason.as_str().into()).expect("a reason");
        assert_eq!(read, reason);
    }
}
