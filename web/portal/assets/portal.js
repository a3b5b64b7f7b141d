// What makes the pages pleasant. All of them work without it: then the link of a
// letter is pasted into a field.
"use strict";
(() => {
	// The token of a letter stands behind the # of the address, which is sent nowhere.
	// It goes into the form, and out of the address bar and the history.
	const takeToken = () => {
		const found = /^#(?:token|k)=([\w-]+)$/.exec(location.hash);
		const input = document.querySelector('input[name="token"]');
		if (!found || !input) return;
		history.replaceState(null, "", location.pathname + location.search);
		input.value = found[1];
		const field = input.closest(".field");
		if (field) field.hidden = true;
	};
	takeToken();
	addEventListener("hashchange", takeToken);

	for (const box of document.querySelectorAll("input[data-shows]")) {
		const password = document.getElementById(box.dataset.shows);
		const follow = () => { password.type = box.checked ? "text" : "password"; };
		box.addEventListener("change", follow);
		box.closest(".shows").hidden = false;
		// What is shown must not be kept among what was typed into text fields.
		password.form.addEventListener("submit", () => { box.checked = false; follow(); });
	}

	document.getElementById("problem")?.focus();
})();
