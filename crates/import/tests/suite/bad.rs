//! What is no file of either tool: where, why, and what to do.

use expect_test::{Expect, expect};

use crate::of;

fn check(text: &str, service: Option<&str>, said: Expect) {
    said.assert_eq(&of("compose.yaml", text.as_bytes(), service).unwrap_err().to_string());
}

#[test]
fn what_is_no_yaml_is_shown_where_it_breaks() {
    check(
        "services:\n  web:\n\timage: x\n",
        None,
        expect![[r#"
        compose.yaml:3:2: this line is indented with a tab
          3 | 	image: x
            | 	^
          hint: indent with spaces; YAML does not count tabs"#]],
    );
    check(
        "services: {web: {image: x}\n",
        None,
        expect![[r#"
        compose.yaml:1:11: this bracket is not closed
          1 | services: {web: {image: x}
            |           ^
          hint: `[` is closed by `]`, `{` by `}`"#]],
    );
    check(
        "",
        None,
        expect![[r#"
        compose.yaml:1:1: the file is empty
          hint: name a compose file or a Kamal deploy.yml"#]],
    );
    check(
        "services: {web: {image: a}}\n---\nservices: {}\n",
        None,
        expect![[r#"
        compose.yaml:3:1: a second document begins here
          3 | services: {}
            | ^
          hint: only files of one document are read: import each document by itself"#]],
    );
    check(
        "services: {web: {image: a, image: b}}\n",
        None,
        expect![[r#"
        compose.yaml:1:28: the key `image` stands here twice
          1 | services: {web: {image: a, image: b}}
            |                            ^
          hint: keep one of them"#]],
    );
    check(
        "services:\n  web:\n    ports: !reset []\n",
        None,
        expect![[r#"
        compose.yaml:3:19: YAML tags (`!name`) mean nothing in a file to import
          3 |     ports: !reset []
            |                   ^
          hint: let its own tool write it out first, such as: docker compose config > whole.yaml"#]],
    );
    assert!(of("x", &[0, 159, 146, 150], None).unwrap_err().to_string().contains("the file is not a text"));
}

#[test]
fn what_is_neither_compose_nor_kamal_is_said_so() {
    check(
        "kind: Deployment\n",
        None,
        expect![[r#"
        compose.yaml:1:1: this is neither a compose file nor Kamal's
          1 | kind: Deployment
            | ^
          hint: a compose file has `services:`; Kamal's config/deploy.yml has `service:`, `image:` and `servers:`"#]],
    );
    check(
        "web:\n  image: shop\n",
        None,
        expect![[r#"
        compose.yaml:1:1: this is a compose file of the oldest form, without `services:`
          1 | web:
            | ^
          hint: put the services below `services:`, and import it again"#]],
    );
    check(
        "include: [a.yaml]\n",
        None,
        expect![[r#"
        compose.yaml:1:1: the file has no services of its own
          1 | include: [a.yaml]
            | ^
          hint: write it out first: docker compose config > whole.yaml, and import that"#]],
    );
    check(
        "services: [web]\n",
        None,
        expect![[r#"
        compose.yaml:1:1: services with their keys are expected here, not a list
          1 | services: [web]
            | ^
          hint: such as `services: {web: {image: shop:1.4}}`"#]],
    );
    check(
        "- a\n",
        None,
        expect![[r#"
        compose.yaml:1:1: this is neither a compose file nor Kamal's
          1 | - a
            | ^
          hint: a compose file has `services:`; Kamal's config/deploy.yml has `service:`, `image:` and `servers:`"#]],
    );
}

#[test]
fn a_service_that_cannot_be_chosen_or_run_is_said_so() {
    let two = "services:\n  a: {image: a, ports: [\"80\"]}\n  b: {image: b, ports: [\"81:80\"]}\n";
    check(
        two,
        None,
        expect![[r#"
        compose.yaml:2:3: several services can be meant, and a release file is of one
          2 |   a: {image: a, ports: ["80"]}
            |   ^
          hint: name it with --service; there are: a, b"#]],
    );
    check(
        two,
        Some("c"),
        expect![[r#"
        compose.yaml:1:1: the file has no service `c`
          1 | services:
            | ^
          hint: there are: a, b"#]],
    );
    check(
        "services:\n  a: {command: x}\n",
        None,
        expect![[r#"
        compose.yaml:2:3: the service `a` has neither `image` nor `build`
          2 |   a: {command: x}
            |   ^
          hint: cutover releases containers: give it one of the two"#]],
    );
    check(
        "services:\n  a: {extends: {file: b.yaml, service: a}}\n",
        None,
        expect![[r#"
        compose.yaml:2:3: the service `a` has neither `image` nor `build`
          2 |   a: {extends: {file: b.yaml, service: a}}
            |   ^
          hint: it extends another: docker compose config > whole.yaml, and import that"#]],
    );
    check(
        "services:\n  a: {image: \"Not An Image\"}\n",
        None,
        expect![[r#"
        compose.yaml:2:14: `Not An Image` is not an image
          2 |   a: {image: "Not An Image"}
            |              ^
          hint: such as `registry.example/shop:1.4`"#]],
    );
    check(
        "services:\n  a: {image: \"${IMAGE}\"}\n",
        None,
        expect![[r#"
        compose.yaml:2:14: the image is made of ${IMAGE}, which has no value here
          2 |   a: {image: "${IMAGE}"}
            |              ^
          hint: set it, such as: IMAGE=… cutover import FILE"#]],
    );
    check(
        "services:\n  a: shop\n",
        None,
        expect![[r#"
        compose.yaml:2:3: the keys of a service are expected here, not the text "shop"
          2 |   a: shop
            |   ^
          hint: such as `image: shop:1.4`"#]],
    );
}

#[test]
fn a_kamal_file_that_has_no_service_for_requests_is_said_so() {
    check(
        "service: [x]\nimage: a\nservers: [h]\n",
        None,
        expect![[r#"
        compose.yaml:1:10: a service's name is expected here, not a list
          1 | service: [x]
            |          ^
          hint: such as `service: shop`"#]],
    );
    check(
        "service: a\nimage: A B\nservers: [h]\n",
        None,
        expect![[r#"
        compose.yaml:2:8: `A B` is not the name of an image
          2 | image: A B
            |        ^
          hint: such as `image: acme/shop`"#]],
    );
    check(
        "service: a\nimage: a\nservers: {job: {hosts: [h]}}\n",
        None,
        expect![[r#"
        compose.yaml:3:1: there is no role `web`, which would be the service itself
          3 | servers: {job: {hosts: [h]}}
            | ^
          hint: name it with `primary_role:`; there are: job"#]],
    );
    check(
        "service: a\nimage: a\nservers: [h]\nproxy: false\n",
        None,
        expect![[r#"
        compose.yaml:4:1: this service takes no requests: its proxy is off
          4 | proxy: false
            | ^
          hint: cutover releases what takes requests, with its workers beside it; stay with Kamal for this one"#]],
    );
}
