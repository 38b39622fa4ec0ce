/* SPDX-License-Identifier: Apache-2.0 */
/* toml.cpp - TOML through toml++, handed over as JSON; no exception leaves this file. */
#define TOML_EXCEPTIONS 0
#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>

#include <cstdio>
#include <exception>
#include <string>

#include "conf/toml.h"

namespace {

struct reading {
    const char *name;
    json_t *line;
    ft_error *error;
    bool is_failed;
};

json_t *value_of(reading &in, const toml::node &node, const std::string &path);

ft_status fail(reading &in, ft_status status, size_t line, const std::string &text) {
    const std::string place = line > 0 ? ":" + std::to_string(line) : "";
    in.is_failed = true;
    if (in.error) {
        in.error->code = status;
        in.error->where = line;
        std::snprintf(in.error->text, sizeof in.error->text, "%.100s%s: %s", in.name, place.c_str(),
                      text.c_str());
    }
    return status;
}

void note_line(reading &in, const toml::node &node, const std::string &path) {
    json_object_set_new(in.line, path.c_str(), json_integer(node.source().begin.line));
}

json_t *object_of(reading &in, const toml::table &table, const std::string &path) {
    json_t *object = json_object();
    for (const auto &[key, node] : table) {
        const std::string name(key.str());
        json_t *value = value_of(in, node, path.empty() ? name : path + "." + name);
        if (!value || json_object_set_new(object, name.c_str(), value) != 0) {
            json_decref(object);
            return nullptr;
        }
    }
    return object;
}

json_t *array_of(reading &in, const toml::array &array, const std::string &path) {
    json_t *list = json_array();
    size_t i = 0;
    for (const toml::node &node : array) {
        json_t *value = value_of(in, node, path + "[" + std::to_string(i++) + "]");
        if (!value || json_array_append_new(list, value) != 0) {
            json_decref(list);
            return nullptr;
        }
    }
    return list;
}

/* -> nullptr: it has no value of JSON; what is wrong was said, or there is no memory. */
json_t *value_of(reading &in, const toml::node &node, const std::string &path) {
    json_t *value = nullptr;
    note_line(in, node, path);
    if (const auto *table = node.as_table()) {
        return object_of(in, *table, path);
    }
    if (const auto *array = node.as_array()) {
        return array_of(in, *array, path);
    }
    if (const auto *text = node.as_string()) {
        value = json_stringn(text->get().data(), text->get().size());
    } else if (const auto *whole = node.as_integer()) {
        value = json_integer(whole->get());
    } else if (const auto *real = node.as_floating_point()) {
        value = json_real(real->get());
    } else if (const auto *flag = node.as_boolean()) {
        value = json_boolean(flag->get());
    }
    if (!value && !in.is_failed) {
        fail(in, FT_FORMAT, node.source().begin.line,
             path.substr(0, 60) + " is a date, a time or no finite number, which no setting takes");
    }
    return value;
}

ft_status parse(reading &in, std::string_view text, json_t **value) {
    const toml::parse_result found = toml::parse(text);
    if (!found) {
        return fail(in, FT_FORMAT, found.error().source().begin.line,
                    "no TOML: " + std::string(found.error().description()));
    }
    *value = object_of(in, found.table(), "");
    if (*value) {
        return FT_OK;
    }
    return in.is_failed ? FT_FORMAT : fail(in, FT_NOMEM, 0, "not enough memory for the settings");
}

} // namespace

ft_status ft_toml_parse(const char *name, const char *text, size_t n, json_t **value, json_t **line,
                        struct ft_error *error) {
    reading in = { name, json_object(), error, false };
    ft_status status;
    try {
        status = parse(in, std::string_view(text, n), value);
    } catch (const std::exception &caught) {
        status = fail(in, FT_NOMEM, 0, caught.what());
    }
    if (status != FT_OK) {
        json_decref(in.line);
        return status;
    }
    *line = in.line;
    return FT_OK;
}
