//! Accounts (RFC 8555, 7.3).

use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::Shared;
use crate::book::{Account, Book};
use crate::http::{Answer, located};
use crate::jws::{Jwk, Signed};
use crate::problem::Problem;

/// Makes an account, or finds the one with the same key.
pub(crate) fn make(shared: &Shared, signed: &Signed, key: &Jwk) -> Result<Answer, Problem> {
    let wanted = signed.json()?;
    let mut book = shared.book();
    if let Some(known) = book.accounts.iter().find(|account| account.key == *key) {
        return Ok(located(StatusCode::OK, &url(shared, known.id), &described(known)));
    }
    if wanted["onlyReturnExisting"] == json!(true) {
        return Err(unknown());
    }
    if wanted["termsOfServiceAgreed"] != json!(true) {
        return Err(Problem::new(403, "userActionRequired", "agree to the terms of service first"));
    }
    let account = Account { id: book.next_id(), key: key.clone(), contact: contacts(&wanted)? };
    let answer = located(StatusCode::CREATED, &url(shared, account.id), &described(&account));
    book.accounts.push(account);
    book.seen.accounts += 1;
    note_contacts(&mut book);
    Ok(answer)
}

/// Reads or changes an account.
pub(crate) fn change(shared: &Shared, signed: &Signed, id: usize, own: usize) -> Result<Answer, Problem> {
    if id != own {
        return Err(Problem::new(403, "unauthorized", "this account is another one's"));
    }
    let mut book = shared.book();
    let account = book.accounts.iter_mut().find(|account| account.id == id).ok_or_else(unknown)?;
    if !signed.payload.is_empty() {
        account.contact = contacts(&signed.json()?)?;
    }
    let answer = Response::new(described(account));
    note_contacts(&mut book);
    Ok(answer)
}

pub(crate) fn url(shared: &Shared, id: usize) -> String {
    format!("{}/acct/{id}", shared.base)
}

pub(crate) fn unknown() -> Problem {
    Problem::new(400, "accountDoesNotExist", "there is no such account")
}

fn contacts(wanted: &Value) -> Result<Vec<String>, Problem> {
    let Some(list) = wanted["contact"].as_array() else { return Ok(Vec::new()) };
    let texts = list.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
    match texts.iter().find(|contact| !contact.starts_with("mailto:")) {
        Some(other) => Err(Problem::new(400, "unsupportedContact", format!("{other} is no mail address"))),
        None => Ok(texts),
    }
}

fn described(account: &Account) -> Value {
    json!({"status": "valid", "contact": account.contact})
}

fn note_contacts(book: &mut Book) {
    book.seen.contacts = book.accounts.iter().flat_map(|account| account.contact.clone()).collect();
}
