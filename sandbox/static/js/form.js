/** Forms that send one line and keep it when it could not be sent. */

/** Calls `send(text)` on submit; clears the field if that returned true. */
export function onSubmit(form, field, send) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit(field, send);
  });
}

export function submit(field, send) {
  const text = field.value.trim();
  if (text && send(text)) field.value = "";
  field.focus();
}

/** Says why the field kept its text. */
export function notConnected(log) {
  log.add("not sent: there is no connection now", { kind: "error" });
  return false;
}

/** Text sockets say "not sent: ..." to a line that they refuse, and "notice: ..." about themselves. */
export function kindOf(text) {
  if (text.startsWith("not sent: ")) return "error";
  return text.startsWith("notice: ") ? "event" : "";
}
