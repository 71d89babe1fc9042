#!/usr/bin/env python
"""Makes crates/data/tests/fixtures/jinja.json: what jinja2 3.1.6, as transformers 5.24 sets it up for chat templates,
makes of a thousand small templates over one set of variables.

    python tests/interop/make_templates.py          # packages: transformers 5.24.0, Jinja2 3.1.6

The file holds {"variables": {...}, "templates": [[source, text or null], ...]}; null where rendering fails. An entry of
EXPRESSIONS is a template of that one expression. crates/data/src/template/python/tests.rs renders all; what is known to
differ (docs/reference/chat-templates.md) is not among them.
"""
import json
from pathlib import Path

from transformers.utils.chat_template_utils import _compile_jinja_template

OUT = Path(__file__).resolve().parents[2] / "crates" / "data" / "tests" / "fixtures" / "jinja.json"

VARIABLES = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What's 2 + 2?\n"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function",
             "function": {"name": "add", "arguments": {"a": 2, "b": 2.5, "deep": [True, None, {"x": "é"}]}}}]},
        {"role": "tool", "tool_call_id": "c1", "name": "add", "content": "{\"sum\": 4.5}"},
        {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\nIt is 4.5."},
        {"role": "user", "content": [{"type": "text", "text": "Thanks"}, {"type": "image"}]},
    ],
    "tools": [
        {"type": "function", "function": {
            "name": "add", "description": "Adds <two> & 'more'.",
            "parameters": {"type": "object", "required": ["a"], "properties": {
                "a": {"type": "integer", "enum": [1, 2]}, "items": {"type": "array", "items": {"type": "string"}},
                "u": {"type": ["string", "null"], "default": None}}}}},
    ],
    "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>", "documents": None,
    "n": 3, "zero": 0, "minus": -7, "f": 1.5, "whole": 2.0, "big": 1e16, "tiny": 0.00001, "yes": True, "no": False,
    "s": "hello World", "empty": "", "none": None, "nil": None, "uni": "naïve Straße 東京 🙂\u200b\u00a0", "num": "42",
    "quote": "it's", "both": "it's \"so\"", "lines": "a\nb\r\nc\n\nd", "spaced": "  x y\t", "html": "<a href='x'>&</a>",
    "lst": [3, 1, 2], "words": ["pear", "Apple", "fig"], "mixed": ["a", None, True, 1.0, [1], {"k": "v"}],
    "d": {"b": 1, "a": 2}, "none_list": [], "empty_map": {}, "people": [
        {"name": "Ann", "age": 30, "tags": ["x"], "addr": {"city": "B"}},
        {"name": "bob", "age": 25, "tags": [], "addr": {"city": "A"}},
        {"name": "Cy", "age": 30, "addr": {"city": "C"}}],
}

EXPRESSIONS = r"""
'' and 'x'
'a' and ''
'a' and 0
0 or ''
'' or none
none or 'x'
nil and 1
lst and d
none_list or 'fallback'
none_list and 1
(not '') and 'y'
not lst
not none_list
undefined or 'dflt'
undefined and 1
1 and 2 or 3
yes and no
(yes and 'A') or 'B'
'x' if yes
'x' if no
'x' if no else 'y'
('x' if no) ~ '|'
'a' if no else 'b' if no else 'c'
none
nil
True
false
yes
None
n
f
whole
big
tiny
1e15
123456789012345678
1.0
100.0
1e100
0.1 + 0.2
1/3
-0.0
lst
mixed
d
empty_map
none_list
messages[0]
messages[2]
messages[5].content
tools
['a', none]
[true, false, 1.0, 'x']
{'a': 1, 'b': none}
{'a': {'b': ['c', 1.5]}}
{}
[]
()
(1,)
(1, 2)
('a', none, [1, (2,)])
[(1, 2)]
{'k': (1, 'x')}
1, 2
uni
[uni]
[quote]
[both]
[lines]
['tab\t', 'back\\slash', 'nl\n']
['\x00\x1f\x7f', '\u00e9']
"dq 'sq'"
'con' 'cat'
'a' ~ 1 ~ none ~ true ~ 1.0 ~ [1, 'x']
'x' ~ undefined ~ 'y'
'a' + 'b'
'a' + 1
1 + 'a'
'a' + none
'a' + undefined
undefined + 'a'
lst + [4]
lst + none_list
lst + 'x'
[1] + (2,)
(1,) + (2, 3)
1 + 2.0
yes + 1
yes + yes
f + n
n - 5
f - n
'a' - 'b'
lst - lst
n * 2
n * f
'ab' * 3
3 * 'ab'
'ab' * -1
'ab' * zero
[0] * 3
2 * [1, 2]
(1,) * 2
none * 2
7 / 2
6 / 2
n / zero
7 // 2
minus // 2
7 // -2
7.5 // 2
-7.5 // 2
n // zero
7 % 3
minus % 3
7 % -3
7.5 % 2
-7.5 % 2
n % zero
2 ** 10
2 ** -1
2 ** 0.5
2 ** 3 ** 2
-2 ** 2
-n
+n
+f
- -n
-'a'
+'a'
-yes
'%s' % 'x'
'%s-%d' % ('x', 3)
'%05.2f|%5s|%-5s|' % (3.14159, 'ab', 'cd')
'%(a)s' % {'a': 1}
'%x %X %o %e %g %%' % (255, 255, 8, 12345.678, 0.0001)
'%d' % 3.7
'%s' % none
'%s' % [1, 'a']
'%r' % 'a'
'%s %s' % 'x'
'%d' % 'x'
'no' % 1
1 == 1.0
true == 1
yes == 1
'1' == 1
none == false
none == nil
[1, 2] == [1, 2]
[1, 2] == (1, 2)
(1, 2) == (1, 2)
{'a': 1} == {'a': 1.0}
undefined == none
undefined == undefined
'a' != 'b'
1 != 1.0
1 < 2 < 3
1 < 3 < 2
3 > 2 >= 2
'a' < 'b'
'a' < 1
none < 1
none > none
[1, 2] < [1, 3]
(1, 2) < (1, 3)
1 < true
f >= 1
n > undefined
'B' < 'a'
'é' > 'z'
'a' in 'abc'
'' in 'abc'
1 in lst
1.0 in lst
true in lst
'1' in lst
'a' in d
'z' not in d
not 'a' in d
1 in 'abc'
none in 'abc'
'a' in none
'a' in undefined
'a' in n
'x' in mixed
none in mixed
[1] in mixed
'b' in ('a', 'b')
('a') in 'a'
undefined in lst
messages[0].role in ['system', 'developer']
'a' not in 'abc' and yes
lst[0]
lst[-1]
lst[5]
lst[-5]
lst['x']
lst[yes]
lst[1.0]
s[0]
s[-1]
s[99]
s['x']
d['b']
d['zz']
d.b
d.zz
d.zz.y
d['zz']['y']
d[none]
nil.x
nil['x']
nil[0]
n.x
n[0]
f['x']
undefined.x
undefined['x']
undefined[0]
undefined
undefined is defined
d.zz is defined
d.items is defined
s.upper is defined
s.nothing is defined
s.x.y is defined
messages[9] is defined
messages[9].role
(1, 2)[0]
(1, 2)[-1]
lst.0
messages.0.role
lst[0:2]
lst[1:]
lst[:-1]
lst[::-1]
lst[::2]
lst[-2:]
lst[5:]
lst[-9:2]
lst[2:0]
lst[2:0:-1]
lst[1::-1]
lst[-1:-3:-1]
lst[:1:-1]
lst[::-2]
lst[0:0]
lst[::0]
s[0:5]
s[6:]
s[-5:]
s[:-6]
s[::-1]
s[::2]
s[2:9:3]
s[9:2:-3]
s[5:2]
s[:100]
uni[3:8]
uni[::-1]
(1, 2, 3)[1:]
undefined[1:]
nil[1:]
n[1:]
d[1:]
messages[1:] | length
messages[::-1][0].role
empty[::-1]
none_list[::-1]
none_list[1:]
lst[none:2]
lst[yes:]
s | length
lst | length
d | length
empty | length
undefined | length
nil | length
n | length
messages[0].tool_calls | length
messages[0].tool_calls
uni | length
lst | count
(1, 2) | length
lst | first
none_list | first
lst | last
none_list | last
s | first
s | last
d | first
undefined | first
lst | first | string
lst | sum
[0.1, 0.2] | sum
none_list | sum
lst | sum(start=10)
people | sum(attribute='age')
people | sum('age', 5)
lst | min
lst | max
words | min
words | max
words | min(case_sensitive=true)
words | max(true)
none_list | min
none_list | max
people | min(attribute='age')
people | max(attribute='age')
people | map(attribute='age') | max
s | max
lst | sort
lst | sort(true)
lst | sort(reverse=true)
words | sort
words | sort(case_sensitive=true)
words | sort(false, true)
people | sort(attribute='age') | map(attribute='name') | list
people | sort(attribute='age,name') | map(attribute='name') | list
people | sort(attribute='addr.city') | map(attribute='name') | list
people | sort(attribute='age', reverse=true) | map(attribute='name') | list
mixed | sort
d | sort
s | sort
[1, 2.5, true] | sort
d | dictsort
d | dictsort(by='value')
d | dictsort(false, 'value', true)
d | dictsort(reverse=true)
{'B': 1, 'a': 2} | dictsort
{'B': 1, 'a': 2} | dictsort(true)
lst | dictsort
d | items
d | items | list
undefined | items | list
lst | items | list
lst | unique | list
[1, 1, 2] | unique | list
['a', 'A', 'b'] | unique | list
['a', 'A', 'b'] | unique(true) | list
people | unique(attribute='age') | map(attribute='name') | list
people | groupby('age') | list | length
people | groupby('age') | map(attribute='grouper') | list
people | groupby('age') | map(attribute='list') | map('length') | list
people | groupby('addr.city') | map('first') | list
people | groupby('missing', default='?') | map('first') | list
lst | batch(2) | list
lst | batch(2, 'x') | list
lst | slice(2) | list
lst | slice(2, 'x') | list
[1,2,3,4,5,6,7] | slice(3) | list
lst | reverse | list
s | reverse
d | reverse | list
n | reverse
lst | join
lst | join(', ')
mixed | join('|')
words | join('-', attribute='x')
people | join(', ', attribute='name')
people | join(attribute='age')
people | map(attribute='addr.city') | join(' ')
s | join('.')
undefined | join
nil | join(',')
n | join(',')
d | join(',')
lst | map('string') | list
lst | map('string') | join
words | map('upper') | list
words | map('replace', 'p', 'q') | list
people | map(attribute='tags') | list
people | map(attribute='zz', default='-') | list
people | map(attribute='zz') | list
people | map(attribute='tags.0') | list
people | map('attr', 'name') | list
lst | map('nothing') | list
none_list | map('nothing') | list
nil | map('upper') | list
nil | selectattr('text', 'defined') | map(attribute='text') | join
nil | select | list
zero | reject('odd') | list
undefined | map(attribute='x') | list
lst | map | list
lst | select | list
[0, 1, '', 'a', none] | select | list
lst | select('odd') | list
lst | select('gt', 1) | list
lst | select('in', [1, 2]) | list
lst | select('divisibleby', 2) | list
lst | select('nothing') | list
lst | reject('odd') | list
[0, 1, ''] | reject | list
people | selectattr('tags') | map(attribute='name') | list
people | selectattr('age', 'equalto', 30) | map(attribute='name') | list
people | selectattr('age', '==', 30) | list | length
people | selectattr('age', 'lessthan', 30) | map(attribute='name') | first
people | selectattr('addr.city', 'in', 'AB') | list | length
people | selectattr('tags', 'defined') | list | length
people | rejectattr('tags') | map(attribute='name') | list
people | rejectattr('age', 'eq', 30) | map(attribute='name') | join
messages | selectattr('role', 'equalto', 'tool') | list
messages | selectattr('role', 'equalto', 'nobody') | first
(messages | selectattr('role', 'equalto', 'nobody')) and 'yes'
(messages | selectattr('role', 'equalto', 'nobody') | list) or 'empty'
messages | selectattr('role', 'equalto', 'user') | length
messages | selectattr('role', 'equalto', 'user') | last
messages | map(attribute='role') | list
messages | map(attribute='role') | unique | list
messages | map(attribute='role') | join(',')
lst | list
s | list
d | list
nil | list
n | list
undefined | list
(1, 2) | list
s | upper
s | lower
s | title
s | capitalize
"it's a dog-house (x)" | title
"it's a dog".title()
uni | upper
uni | lower
'ß' | capitalize
n | upper
nil | upper
s | trim
spaced | trim
'xxaxx' | trim('x')
nil | trim
s | replace('o', '0')
s | replace('o', '0', 1)
s | replace('l', 'L', count=2)
n | replace('3', '4')
s | replace('', '-')
s | truncate(5)
s | truncate(5, true)
s | truncate(8, false, '…', 0)
s | truncate(5, true, '..')
s | truncate(255)
'a long sentence of words' | truncate(12)
'a long sentence of words' | truncate(12, leeway=0)
s | wordcount
'a  b, c' | wordcount
s | center(20) ~ '|'
lines | indent
lines | indent(2)
lines | indent(2, true)
lines | indent(2, first=true)
lines | indent(2, false, true)
lines | indent('> ')
lines | indent(width=4, blank=true)
'a\n' | indent(2, true) ~ '|'
html | escape
html | e
html | safe
n | string
lst | string
none | string
1.0 | string
'3' | int
'3.7' | int
'x' | int
'' | int(1)
'x' | int(-1)
3.9 | int
-3.9 | int
none | int
true | int
'0x1f' | int(base=16)
'ff' | int(0, 16)
undefined | int
lst | int
' 12 ' | int
'1_000' | int
'3.5' | float
'x' | float
'x' | float(2.5)
n | float
nil | float
'1e3' | float
'nan' | float
3.14159 | round
3.14159 | round(2)
2.5 | round
3.5 | round
42.55 | round(1, 'floor')
42.51 | round(1, 'ceil')
n | round
1234.5 | round(-2)
lst | batch(9999999999) | list
lst | batch(99999999999999999999999) | list
lst | batch(0) | list
lst | batch(-1, 'x') | list
none_list | batch(0) | list
lst | slice(200000) | list | length
lst | slice(0) | list
lst | slice(-1) | list
s | truncate(9223372036854775807)
s | truncate(-9223372036854775808)
s | truncate(-9999999999999999999999)
s | truncate(5, leeway=9223372036854775807)
lines | indent(2000) | length
lst | tojson(indent=2000) | length
'a\tb'.expandtabs(3000) | length
12345678901234567890123 | round(-2)
-12345678901234567890150 | round(-2)
1250 | round(-2)
1350 | round(-2)
7 | round(-30)
(-0.0) | round(0, 'floor')
(-0.4) | round(0, 'ceil')
(-1.5) | round(-1, 'ceil')
0 | round(2, 'floor')
9007199254740993 | round(1, 'floor')
9007199254740993 | round(-1, 'floor')
1e300 | round(300, 'floor')
9007199254740993 / 3
-9007199254740993 / 3
9007199254740993 / 1
9007199254740994 / 9007199254740993
10 ** 30 / 7
0 / -3
7 / 2
n / 0
10 ** 37 // 7
(2 ** 70) // (2 ** 69)
-(10 ** 37) // 7
-(10 ** 37) % 7
(2 ** 100) % 1000
170141183460469231731687303715884105727 // -1
170141183460469231731687303715884105727 | abs
'170141183460469231731687303715884105727' | int
'-170141183460469231731687303715884105728' | int
1e30 | int
9007199254740993 == 9007199254740992.0
9007199254740993 > 9007199254740992.0
9007199254740992.0 < 9007199254740993
-9007199254740993 < -9007199254740992.0
2 ** 64 == 18446744073709551616.0
1 < 1.5
-1 > -1.5
minus | abs
-1.5 | abs
'x' | abs
undefined | default('d')
nil | default('d')
nil | default('d', true)
'' | default('d')
'' | default('d', true)
'' | d('x', boolean=true)
d.zz | default([])
undefined | default
s | default('d') | upper
d | attr('b')
d | attr('items') is callable
d | tojson
d | tojson(indent=2)
mixed | tojson
tools | tojson
tools | tojson(indent=4)
tools | tojson(indent=0)
tools | tojson(indent='--')
uni | tojson
uni | tojson(ensure_ascii=true)
uni | tojson(ensure_ascii=False)
d | tojson(sort_keys=true)
tools | tojson(sort_keys=true)
d | tojson(separators=(',', ':'))
d | tojson(separators=[',', ':'])
d | tojson(separators=(',', ':'), indent=1)
tools | tojson(ensure_ascii=False, separators=(',', ':'), sort_keys=True)
d | tojson(2)
d | tojson(true)
d | tojson(false, 2)
d | tojson(nothing=1)
html | tojson
both | tojson
lines | tojson
'\u0001\u007f\u2028/' | tojson
none | tojson
true | tojson
1.0 | tojson
big | tojson
tiny | tojson
1e100 | tojson
undefined | tojson
messages[0].zz | tojson
(1, 2) | tojson
{1: 'a', none: 'b', 1.5: 'd'} | tojson
{'a': (1, [])} | tojson(indent=2)
[] | tojson(indent=2)
{} | tojson(indent=2)
[[], {}] | tojson(indent=2)
lst | map('string') | tojson
lst | map('string') | list | tojson
d.items() | tojson
d.items() | list | tojson
range(3) | tojson
messages[2].tool_calls[0].function.arguments | tojson
[1, [2, 3]] | length
'%s is %s' | format('a', 1)
'%(x)s' | format(x=1)
'{} {}'.format('a', 1)
'{1} {0}'.format('a', 1)
'{a} {b!r}'.format(a=1, b='x')
'{:>5}|{:<5}|{:^5}|{:05d}|{:.2f}|{:,}'.format('a', 'b', 'c', 42, 3.14159, 1234567)
'{0[0]} {1.b}'.format(lst, d)
'{{}}'.format(1)
'{}'.format(none)
'{}'.format([1, 'a'])
'{} {}'.format(1)
s.upper()
s.lower()
s.title()
s.capitalize()
s.swapcase()
s.casefold()
s.strip('hd')
spaced.strip() ~ '|'
spaced.lstrip() ~ '|'
spaced.rstrip() ~ '|'
'\n\n a \n'.strip('\n') ~ '|'
s.strip(none)
s.split()
s.split('o')
s.split('o', 1)
s.split('o', maxsplit=1)
s.split(sep='o')
' a  b '.split()
' a  b '.split(' ')
' a  b c '.split(none, 1)
''.split()
''.split(',')
s.split('')
s.rsplit('o', 1)
s.rsplit('o')
s.rsplit()
' a  b c '.rsplit(none, 1)
s.partition('o')
s.partition('zz')
s.rpartition('o')
s.rpartition('zz')
s.partition('o')[2]
lines.splitlines()
lines.splitlines(true)
lines.splitlines(keepends=true)
''.splitlines()
'a\x0bb\u2028c'.splitlines()
s.startswith('he')
s.startswith(('x', 'he'))
s.startswith('e', 1)
s.startswith('o', 4, 5)
s.startswith(['he'])
s.startswith(none)
s.endswith('ld')
s.endswith(('x', 'ld'))
s.endswith('o', 0, 5)
s.removeprefix('hello ')
s.removeprefix('x')
s.removesuffix('World')
s.removesuffix('')
s.replace('o', '0')
s.replace('o', '0', 1)
s.replace('o', '0', -1)
s.replace('', '-')
s.find('o')
s.find('o', 5)
s.find('zz')
uni.find('東')
s.rfind('o')
s.index('o')
s.index('zz')
s.rindex('o')
s.count('o')
s.count('')
s.count('l', 0, 3)
'a'.center(5, '*')
'ab'.center(5, '*')
'ab'.center(5)  ~ '|'
'a'.ljust(4, '.')
'a'.rjust(4, '.')
'7'.zfill(3)
'-7'.zfill(4)
'a\tb'.expandtabs(4)
', '.join(['a', 'b'])
', '.join(lst)
''.join(words)
','.join('abc')
','.join(d)
','.join(none_list)
','.join(people | map(attribute='name'))
num.isdigit()
''.isdigit()
'4.2'.isnumeric()
'½'.isnumeric()
'½'.isdigit()
'abc'.isalpha()
''.isalpha()
'ab1'.isalnum()
'abc'.islower()
'abc1'.islower()
'123'.islower()
'ABC'.isupper()
''.isupper()
' \t'.isspace()
''.isspace()
'Ab Cd'.istitle()
'ab_1'.isidentifier()
'é'.isascii()
'a b'.isprintable()
s.nothing()
s.upper
none.upper()
n.upper()
nil.strip()
undefined.strip()
d.nothing()
d.items()
d.keys()
d.values()
d.items() | list
d.keys() | list
d.values() | list
d.keys() | length
d.items() | length
d.keys() | first
d.items() | first
d.get('b')
d.get('zz')
d.get('zz', 'dflt')
d.get('zz', default='x')
d.get('b', 0) + 1
d.copy()
d.pop('b')
d.update({'c': 1})
d.setdefault('c', 1)
'b' in d.keys()
1 in d.values()
('b', 1) in d.items()
d.keys() | sort | join
d.items() | sort | list
d.items() | map('first') | list
d.items() | map('last') | list
d.items() | selectattr(1, 'gt', 1) | list
(d.items() | list)[0][1]
d.items()[0]
tools[0].function.parameters.properties.items() | map('first') | list
tools[0].function.parameters.properties['items'].type
tools[0].function.parameters.properties.items.type
tools[0].function.parameters.properties.a.items
{'get': 1}['get']
{'get': 1}.get('get')
{'keys': [1]}.keys() | list
lst.index(1)
lst.index(9)
lst.count(1)
lst.copy()
lst.append(4)
lst.pop()
(1, 2, 1).count(1)
(1, 2).index(2)
range(3)
range(3) | list
range(1, 4) | list
range(5, 0, -2) | list
range(0) | list
range(3)[1]
range(3) | length
2 in range(3)
range(1000000)
range('a')
dict(a=1, b='x')
dict(d, c=3)
dict([('a', 1)])
namespace(a=1).a
namespace(a=1).zz
cycler('a', 'b').next()
joiner(', ')() ~ 'x'
s is string
n is string
n is number
yes is number
f is number
n is integer
yes is integer
f is integer
f is float
n is float
yes is boolean
n is boolean
yes is true
1 is true
no is false
nil is none
undefined is none
d is mapping
lst is mapping
people[0] is mapping
lst is sequence
s is sequence
d is sequence
n is sequence
nil is sequence
undefined is sequence
(1, 2) is sequence
range(3) is sequence
d.items() is sequence
lst | map('string') is sequence
lst is iterable
s is iterable
d is iterable
n is iterable
nil is iterable
yes is iterable
undefined is iterable
range(3) is iterable
d.items() is iterable
s is callable
range is callable
s.upper is callable
d.items is callable
d.zz is callable
raise_exception is callable
tools is callable
namespace is callable
n is odd
n is even
zero is even
n is divisibleby 3
n is divisibleby(2)
n is divisibleby 3 and yes
n is eq 3
n is equalto 3
n is ne 3
n is not eq(3)
n is lt 4
n is le(3)
n is gt 2
n is ge 4
n is greaterthan 2
n is lessthan 2
n is in lst
'a' is in 'abc'
n is not in lst
s is lower
'abc' is lower
'ABC' is upper
'123' is upper
n is sameas n
nil is sameas none
n is defined and n > 2
undefined is undefined
undefined is not defined
nil is defined
d.a is defined
'upper' is filter
'nothing' is filter
'odd' is test
s is escaped
n is nothing
n is not number
not n is number
messages is defined and messages | length > 2
messages[0]['role'] == 'system' and messages[0]['content'] is string
tools is not none and tools | length
tools is iterable and tools | length > 0
documents is none
messages[2].content is none
messages[2]['content'] or ''
messages[2].content ~ ''
messages[2].content | trim
messages[2].content + 'x'
messages[0].content + eos_token
bos_token ~ messages[0]['content'] | trim ~ eos_token
messages[-1]['content'][0]['text']
messages[4].content.split('</think>')[-1].lstrip('\n')
messages[4].content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n')
'</think>' in messages[4].content
messages[2].tool_calls[0].function.arguments is string
messages[2].tool_calls[0].function.arguments is mapping
messages[2].tool_calls[0].function.arguments.items() | list
messages[2]['tool_calls'][0]['function']['arguments']
messages | length - 1
(messages | length) - 1
messages | length % 2
messages[0].role == 'user' or messages[0]['role'] == 'system'
messages[1:][0]['content'] | trim
-1 | abs
-n | abs
1 - -1
2 - 1 ~ 'x'
1 ~ 2 + 3
'a' ~ 'b' * 2
1 + 2 * 3 ** 2
(1 + 2) * 3
10 - 2 - 3
2 * 3 % 4
not 1 == 2
not none is none
1 == 1 == 1
n in lst and n not in [1]
1 if 0 else 2 + 3
lst | length > 2 and 'long'
[1, 2, 3,]
{'a': 1,}
{'a': 1}.a
{'a': {'b': 1}}.a.b
[[1, 2], [3]][0][1]
"a\"b" ~ 'c\'d'
'\u00e9\x41\n' ~ '|'
'a{{b}}c%}'
{'}}': '{{'}
{'a': {'b': {}}}
raise_exception('no')
strftime_now('%Y') | length
caller is defined
loop is defined
true is sameas true
1_000 + 1
0x10
1.5e3
.5
1.
'a' 'b' | upper
lst[:2] | join
(lst | sort)[0]
(s | upper)[0]
s[0] | upper ~ s[1:]
[n, f] | map('float') | list
[['a', 1], ['b', 2]] | map('first') | list
[['a', 1], ['b', 2]] | map(attribute=0) | list
dict([['a', 1], ['b', 2]])
words | map('length') | sum
words | map('lower') | sort | first
[1, [2]] | string
nil == undefined
n is string or n is number
d is mapping and d.b
lst.length
s.length
d.length
lst.foo
true.x
(none).x
1.0 // 1
7 // 2.0
1e308 * 10
-1e308 * 10
'%.3f' | format(2.0)
'%s' | format(true)
'%5.1f%%' | format(12.345)
lst | tojson | length
s is not string
n if n is defined
undefined.x is defined
d.zz.y is defined
d.get('zz').y is defined
d.get('zz') is none
d.get('zz', {}).get('y', 'deep')
["हिन्दी", "ภาษาไทย กำลัง", "العَرَبِيَّة", "שָׁלוֹם", "தமிழ்", "tie\u0302\u0301ng", "か\u3099"]
{'city': 'नई दिल\u094dली'}
["❤\ufe0f", "1\ufe0f\u20e3", "👨\u200d👩", "🇩🇪", "\U0001fae0", "\U000e0067"]
["\u00a0\u202f\u3000\u2028", "\u00ad\u200b\u200c\u200e\u2066\ufeff", "\ue000\uf8ff", "\u0378\U0002fffe"]
'%r' % 'ไทย'
['नई'.isprintable(), 'e\u0301\ufe0f'.isprintable(), 'a\u00a0'.isprintable(), '\u200d'.isprintable()]
['ǆa ǅ Ǉ ǋ ǳ'.title(), 'ǆ'.capitalize(), 'ᾀ ᾼ ῃ'.title(), 'აბ'.title(), 'ᾀ'.istitle(), 'ǅ'.istitle()]
html|e|e
(html|e) + '<b>'
'<b>' + (html|e)
'<tool>' + (d|tojson|safe) + '</tool>'
html|safe + html
(html|safe) ~ html
[html|safe, html]|join
['<', '>']|join('&'|safe)
[html|safe, html|e]
{'a': '<'|safe}
('%s|%r|%d|%5s|%.1f'|safe) % ('<', '<', 3, '<'|safe, 2)
('%(a)s'|safe) % {'a': '<'}
('%x'|safe) % 3
'%s' % (html|e)
'%r' % ('<'|safe)
('{:5}|{!r}|{:d}|{}'|safe).format('<', '<', 3, '<'|safe)
('{:5}'|safe).format('<'|safe)
'{}'.format('<'|safe) + '<'
('{x}'|safe).format_map({'x': '<'})
('<'|safe) * 2 + '<'
2 * ('<'|safe) + '<'
(html|safe) is escaped, html is escaped, (html|e) is escaped
('<'|safe)|string is escaped, ('<'|safe)|trim is escaped, ('<'|safe)|title is escaped, ('a'|safe)|upper is escaped, ('a'|safe)|capitalize is escaped
('a'|safe)|replace('a', 'b') is escaped, ('a'|safe)|indent is escaped, ('a'|safe)|center(3) is escaped, ('a'|safe)|format is escaped, '%s'|format('a'|safe) is escaped
('a'|safe)|tojson, ('a'|safe)|list, ('a b'|safe)|truncate(1, leeway=0, end='<'), ('abcdef'|safe)|reverse
('<'|safe)|first|e, ('<'|safe)|last|e, ('<'|safe)[0]|e, ('<>'|safe)[::-1]|e
('a<b'|safe).replace('a', '<'), ('a<b'|safe).replace('<', '&'), ('<b<'|safe).strip('<'), ('a<b'|safe).split('<'), ('a<b'|safe).partition('<')
('a<b'|safe).removeprefix('a<'), ('a<b'|safe).startswith('a<'), ('a<b'|safe).find('<'), ('a'|safe).join(['<', '>'|safe]), ('a'|safe).ljust(3, '-')
('a'|safe).center(5, '<')
none|safe, [1]|safe, undefined|safe, ['<']|e, ('<'|e)|forceescape, '<'|forceescape
('<'|safe) == '<', {'<': 1}['<'|safe], '<' in ('<'|safe)
('a'|safe) + 1
4.0 is even, 3.5 is odd, 3.0 is odd, 6.0 is divisibleby(3), 6 is divisibleby(1.5), true is odd
'x' is even
'%d' is even
6 is divisibleby(0)
-2 % 0.5, -7.0 % 7, 7 % -7.0, -0.0 // 1, 1e300 // 1e-300, -1 // 1e300, 5.0 // 0.1, 7.5 // -2, -7.5 % 2
10.0 ** 400
range(5)[1:3], range(10)[::-2], range(5)[9:], range(2, 20, 3)[1:4:2], range(3)[:-1]|list
'abc' % [1], 'abc' % {}, '%s' % [1], 'abc' % range(3), 'abc' % undefined, '%%' % [1]
'abc' % 1
'%(a)s %s' % {'a': 1}
'%s %(a)s' % {'a': 1}
[1, 2]|truncate(5), {'a': 1}|truncate(3), (1, 2, 3, 4)|truncate(3), none_list|truncate
people|truncate(3, leeway=-1)
lst|truncate(3, leeway=0), n|string|truncate
n|truncate
[1, 2, 3, 4, 5, 6, 7, 8, 9]|truncate(3)
'%a' % 'é', '{!a}'.format('é🙂'), '{!a:>8}'.format('é'), '%a' % [uni]
'%c' % 65, '%c' % 'x', '%5c|' % 65, '%c' % yes
'%c' % -1
'%c' % 3.0
'{:c}'.format(65), '{:5c}|{:<5c}|{:05c}'.format(65, 66, 67)
'{:c}'.format(65.0)
'{:+c}'.format(65)
'%*d' % (5, 3), '%-*d|' % (5, 3), '%*d|' % (-5, 3), '%.*f' % (2, 3.14159), '%.*s|' % (2, 'abc')
'%*s' % ('a', 'b')
'{:{}}|'.format('a', 5), '{:{}}{}'.format('a', 3, 'b'), '{:{w}.{p}}|'.format('abcd', w=6, p=2), '{0:{1}}|'.format('a', 3), '{:{x}>{w}}'.format('a', x='*', w=5)
'{:{:{}}}'.format('a', 3, 'b')
'{:5}|{:5}|{:d}'.format(yes, 3, yes), '{}'.format(none), '{:_x}'.format(1234567), '{:,}'.format(1234567)
'{:5}'.format(none)
'{:.2}'.format(3)
'%.5d|%.3x|%+.3d|%#.4x' % (3, 10, 5, 255)
'%E %G %F %e' % ('inf'|float, 'nan'|float, 'inf'|float, 'inf'|float)
'１２'|int, '１２.５'|float, '٣'|int, '１２'.isdecimal(), '²'.isdecimal(), '²'|int
'split' is filter, 'forceescape' is filter, 'wordwrap' is filter, 'startingwith' is test, 'bool' is filter, 'escaped' is test
'a b'|split
'a'|lines
'1'|bool
[1]|zip([2])
[1]|chain([2])
'a' is startingwith('a')
'a' is endingwith('a')
'a' is containing('a')
'a' is safe
1 is int
debug is defined
'a\nb'|indent(1500)|length
'ab'|center(1200)|length
[1]|indent
5|indent
undefined|indent
people|unique|list
[[1], [1]]|unique|list
[(1, 2), (1, 2), (2, 1)]|unique|list
""".strip("\n").split("\n")

TEMPLATES = [
    "{% for c in 'ab' %}{{ loop.last }}{{ loop.length }}{% endfor %}",
    "{% for c in 'ab' %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }};{% endfor %}",
    "{% for c in '' %}x{% else %}none{% endfor %}",
    "{% for c in none %}x{% endfor %}",
    "{% for c in nil %}x{% else %}y{% endfor %}",
    "{% for c in undefined %}x{% else %}y{% endfor %}",
    "{% for c in d.zz %}x{% endfor %}",
    "{% for c in 3 %}x{% endfor %}",
    "{% for c in true %}x{% endfor %}",
    "{% for c in 1.5 %}x{% endfor %}",
    "{% for k in d %}{{ k }}{{ loop.last }}{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for k, v in d | dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d | items %}{{ k }}={{ v }};{% endfor %}",
    "{% for (k, v) in d.items() %}{{ k }}{{ v }}{% endfor %}",
    "{% for k, v in [('a', 1), ['b', 2]] %}{{ k }}{{ v }}{% endfor %}",
    "{% for k, v in ['xy', 'zw'] %}{{ k }}{{ v }}{% endfor %}",
    "{% for k, v in [1] %}x{% endfor %}",
    "{% for k, v in [(1, 2, 3)] %}x{% endfor %}",
    "{% for k, (a, b) in [(1, (2, 3))] %}{{ k }}{{ a }}{{ b }}{% endfor %}",
    "{% for x in lst if x > 1 %}{{ x }}{{ loop.index }}{{ loop.length }}{% endfor %}",
    "{% for x in lst if x > 9 %}x{% else %}none{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.first }}{{ loop.last }}{% endfor %}",
    "{% for x in lst %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}",
    "{% for x in lst %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }};{% endfor %}",
    "{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}",
    "{% for x in lst %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for x in lst %}{{ loop.depth }}{{ loop.depth0 }}{% endfor %}",
    "{% for x in lst %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in lst %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in range(3) %}{% for y in range(x) %}{{ x }}{{ y }} {% endfor %}{% endfor %}",
    "{% for x in range(3) %}{{ loop.last }}{{ loop.length }}{% endfor %}",
    "{% for x in lst | sort %}{{ x }}{{ loop.last }}{% endfor %}",
    "{% for x in lst | reverse %}{{ x }}{{ loop.last }}{{ loop.index }}{% endfor %}",
    "{% for x in lst | map('string') %}{{ x }}{{ loop.last }}{% endfor %}",
    "{% for x in lst[1:] %}{{ x }}{{ loop.last }}{{ loop.length }}{% endfor %}",
    "{% for x in lst + [9] %}{{ x }}{{ loop.last }}{% endfor %}",
    "{% for x in d.keys() %}{{ x }}{{ loop.last }}{% endfor %}",
    "{% for x in d.values() %}{{ x }}{{ loop.length }}{% endfor %}",
    "{% for x in messages | selectattr('role', 'equalto', 'user') %}{{ loop.last }}{{ loop.length }}{% endfor %}",
    "{% for n in [1, [2, [3]]] recursive %}{% if n is iterable %}[{{ loop(n) }}]{% else %}{{ n }}{% endif %}{% endfor %}",
    "{% for g in people | groupby('age') %}{{ g.grouper }}:{{ g.list | map(attribute='name') | join(',') }};{% endfor %}",
    "{% for age, who in people | groupby('age') %}{{ age }}:{{ who | length }};{% endfor %}",
    "{% for row in lst | batch(2, '-') %}{{ row | join }};{% endfor %}",
    "{% for l in lines.splitlines() %}[{{ l }}]{% endfor %}",
    "{% for w in s.split() %}{{ w }}{{ loop.last }}{% endfor %}",
    "{% for p in messages[5].content %}{% if p.type == 'text' %}{{ p.text }}{% else %}<{{ p['type'] }}>{% endif %}{% endfor %}",
    "{% for x in (1, 2) %}{{ x }}{% endfor %}",
    "{% for x in 1, 2 %}{{ x }}{% endfor %}",
    "{% set x = 1 %}{% for i in lst %}{% set x = 2 %}{% endfor %}{{ x }}",
    "{% set x = 1 %}{% if yes %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% set x, y = 1, 'b' %}{{ x }}{{ y }}",
    "{% set x, y = (1, 2) %}{{ x }}{{ y }}",
    "{% set (x, y) = [1, 2] %}{{ x }}{{ y }}",
    "{% set x, y = 'ab' %}{{ x }}{{ y }}",
    "{% set x = 1, 2 %}{{ x }}",
    "{% set x = 'a' if no else 'b' %}{{ x }}",
    "{% set x = [] %}{% set x = x + [1] %}{% set x = x + [2] %}{{ x }}{{ x | length }}",
    "{% set ns = namespace(a=1, b=[]) %}{% for i in lst %}{% set ns.a = ns.a + i %}{% set ns.b = ns.b + [i] %}{% endfor %}{{ ns.a }}{{ ns.b }}",
    "{% set ns = namespace() %}{% set ns.x = 'v' %}{{ ns.x }}{{ ns.y }}{{ ns['x'] }}",
    "{% set ns = namespace({'a': 1}) %}{{ ns.a }}",
    "{% set ns = namespace(d) %}{{ ns.b }}{{ ns.a }}",
    "{% set d.x = 1 %}",
    "{% set ns = namespace(_a=1) %}{{ ns._a }}",
    "{% set ns = namespace() %}{% set ns._a = 1 %}",
    "{% set ns = namespace() %}{% if no %}{% set ns._a = 1 %}{% endif %}ok",
    "{{ d.__class__ }}{{ s.__len__ }}",
    "{% set t %}a{{ n }}b{% endset %}{{ t }}{{ t | upper }}{{ t | length }}",
    "{% set t | upper %}a{{ n }}b{% endset %}{{ t }}",
    "{% set t | replace('a', 'z') | upper %}a{% endset %}{{ t }}",
    "{% set t %}  x {% endset %}[{{ t.strip() }}]{{ t is string }}",
    "{% filter upper %}abc{{ s }}{% endfilter %}",
    "{% filter replace('a', 'b') | upper %}aXa{% endfilter %}",
    "{% filter trim %}  x  {% endfilter %}|",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}",
    "{% macro m(a, b='x', c=none) %}{{ a }}{{ b }}{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(1, c=3) }}{{ m(a=1, b=[2]) }}",
    "{% macro m(a) %}{{ a }}|{% endmacro %}{{ m() }}{{ m(none) }}",
    "{% macro m(a) %}{{ a is defined }}{% endmacro %}{{ m() }}",
    "{% macro m(a) %}x{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}x{% endmacro %}{{ m(zz=1) }}",
    "{% macro m(a=1, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(5) }}",
    "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}in{{ n }}{% endcall %}",
    "{% macro m() %}[{{ caller(1, 'z') }}]{% endmacro %}{% call(a, b) m() %}{{ a }}{{ b }}{% endcall %}",
    "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}",
    "{% macro outer(x) %}{{ inner(x) }}{% endmacro %}{% macro inner(y) %}<{{ y }}>{% endmacro %}{{ outer(1) }}",
    "{% macro fact(k) %}{% if k <= 1 %}1{% else %}{{ k * (fact(k - 1) | int) }}{% endif %}{% endmacro %}{{ fact(5) }}",
    "{% macro m(x) %}{{ x }}{% endmacro %}{{ m('a') + m('b') }}{{ m('q') | upper }}{{ m is callable }}",
    "{% macro m(x) %}\n  {{ x }}\n{% endmacro %}[{{ m(1) }}]",
    "{% macro m(x) -%}\n  {{ x }}\n{%- endmacro %}[{{ m(1) }}]",
    "{% set q = 1 %}{% macro m() %}{{ q }}{% endmacro %}{% set q = 2 %}{{ m() }}",
    "{% macro m() %}{{ n }}{% set n = 9 %}{{ n }}{% endmacro %}{{ m() }}{{ n }}",
    "{% macro m(x) %}{{ x.name }}{{ m.name }}{% endmacro %}{{ m(people[0]) }}",
    "{% if n == 3 %}a{% elif n == 4 %}b{% else %}c{% endif %}",
    "{% if undefined %}a{% else %}b{% endif %}{% if undefined.x %}c{% endif %}",
    "{% if messages[0].zz %}a{% else %}b{% endif %}",
    "{% if nil %}a{% elif none_list %}b{% elif empty_map %}c{% elif '' %}d{% elif 0 %}e{% elif 0.0 %}f{% elif ' ' %}g{% endif %}",
    "{% if (1, 2) %}a{% endif %}{% if () %}b{% endif %}{% if range(0) %}c{% endif %}{% if d.items() %}d{% endif %}{% if {}.items() %}e{% endif %}",
    "{% if lst | select('gt', 100) %}generators are true{% endif %}",
    "{% if not messages | selectattr('role', 'equalto', 'x') | list %}none{% endif %}",
    "a\r\nb\r\n{% if yes %}\r\nc\r\n{% endif %}\r\nd\r\n",
    "a\rb{{ n }}\rc",
    "a\r\n  {%- if yes %}\r\n  x\r\n  {%- endif %}\r\n{{ 'q\r\nr' }}\r\n\r\n",
    "line\n{% if yes %}\n  in\n{% endif %}\nafter\n",
    "  {% if yes %}\n  in\n  {% endif %}\nafter\n\n",
    "{%- if yes -%}\n  in  \n{%- endif -%}\n after",
    "a {{- n -}} b {{ n -}}\n c",
    "a\n\n  {{- n }}\n  {# comment #}\n  b {#- c -#}  d",
    "{%+ if yes %}x{% endif +%}\ny",
    "  {%+ if yes %}x{% endif %}",
    "{% raw %}{{ n }}{% if %}{% endraw %}",
    "{%- raw -%} {{ x }} {%- endraw -%}  y",
    "{# {{ n }} #}x{# multi\nline #}y",
    "{% generation %}a{{ n }}{% endgeneration %}b",
    "{%- generation -%}\n a {%- endgeneration -%}\n b",
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "{% generation %}{% set q = 1 %}{% endgeneration %}{{ q is defined }}",
    "{% for x in lst %}{% generation %}{{ loop.index }}{{ x }}{% endgeneration %}{% endfor %}",
    "{{ n }}\n",
    "{{ n }}\n\n",
    "{{ '%}' }}{{ \"}}\" }}{% if '%}' %}x{% endif %}",
    "{{ {'a': {'b': {}}}}}",
    "{{\n  n\n  +\n  1\n}}",
    "{% set x = {\n 'a': 1,\n 'b': [\n 2\n ]\n} %}{{ x }}",
    "{%set x=1%}{{x}}{%if x==1%}y{%endif%}",
    "{{ n}}{{n }}{{-n}}{{ -n }}",
    "{% if n is divisibleby 3 %}a{% endif %}{% if n is eq 3 %}b{% endif %}{% if not n is eq 4 %}c{% endif %}",
    "{% if messages is defined and messages %}a{% endif %}{% if tools is defined and tools is not none %}b{% endif %}",
    "{% if loop is defined %}a{% else %}b{% endif %}",
    "{% block b %}x{{ n }}{% endblock %}",
    "{% include 'nothing' ignore missing %}x",
    "{% include 'nothing' %}x",
    "{% import 'nothing' as q %}x",
    "{% unknown %}",
    "{{ n",
    "{% if n %}",
    "{{ 1 + }}",
    "{{ lst | nothing }}",
    "{{ nothing() }}",
    "{{ n() }}",
    "{{ s() }}",
    "{{ raise_exception('Roles must alternate') }}",
    "{% set _ = raise_exception('x') if no %}ok",
    "{% if no %}{{ nothing() }}{{ lst | tojson }}{% endif %}ok",
    "{% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] %}{% for m in loop_messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}!{% endif %}{{ m['role'][:1] }}{% endfor %}{{ system }}",
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.content is string %}{{ m.content | trim }}{% elif m.content is none %}{{ m.tool_calls | tojson }}{% else %}{% for p in m.content %}{{ p.text | default('') }}{% endfor %}{% endif %}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    "{%- for tool in tools %}\n{{- '\\n' }}\n{{- tool | tojson }}\n{%- endfor %}",
    "{%- for tool in tools -%}{%- set fn = tool.function -%}{{ fn.name }}({% for k, v in fn.parameters.properties.items() %}{{ k }}: {{ v.type }}{% if k in fn.parameters.required %}!{% endif %}{% if not loop.last %}, {% endif %}{% endfor %})\n{%- endfor -%}",
    "{% macro render(x, depth=0) %}{% if x is mapping %}{% for k, v in x.items() %}{{ '  ' * depth }}{{ k }}:{{ render(v, depth + 1) }}{% endfor %}{% elif x is iterable and x is not string %}{% for v in x %}- {{ render(v, depth + 1) }}{% endfor %}{% else %} {{ x }}\n{% endif %}{% endmacro %}{{ render(tools[0].function) }}",
    "{% set c = cycler('a', 'b') %}{% for x in lst %}{{ c.next() }}{% endfor %}",
    "{% set j = joiner(', ') %}{% for x in lst %}{{ j() }}{{ x }}{% endfor %}",
    "{% set ns = namespace(found=false) %}{% for m in messages[::-1] %}{% if not ns.found and m.role == 'user' %}{% set ns.found = true %}{{ loop.index0 }}{% endif %}{% endfor %}{{ ns.found }}",
    "{% set x = messages | selectattr('role', 'equalto', 'system') | list %}{% if x %}{{ x[0].content }}{% endif %}{{ x | length }}",
    "{% set g = lst | map('string') %}{{ g | join }}{{ g | join }}",
    "{% set a = d.items() %}{{ a | list }}{{ a | list }}",
    "{{ f'x' }}",
    "{{ {'a': 1, **d} }}",
    "{{ dict(**d) }}",
    "{{ [*lst] }}",
    "{{ '{}-{}'.format(*lst[:2]) }}",
    "{{ '%s-%s' | format(*lst[:2]) }}",
    "{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*lst[:2]) }}{{ m(**{'a': 1, 'b': 2}) }}",
    "{% set x = n if n > 2 else none %}{{ x }}{% set y = n if n > 5 %}{{ y is defined }}{{ y }}",
    "{{ 'a' if messages[0].zz else 'b' }}{{ 'a' if d.get('zz') else 'b' }}",
    "{{ n }}{# x #}\n{{ n }}\n{# y #}\nz",
    "{%- set a = 'x' -%}\n\n{{ a }}\n{%- set b = 'y' %}\n{{ b }}",
    "\ufeff{{ n }}",
    "{{ lst[0], lst[1] }}",
    "{% if n %}{% else %}{% endif %}{% for x in [] %}{% endfor %}ok",
    "{% for x in lst %}{% set outer = loop %}{% for y in lst %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}",
    "{% for m in messages %}{%- if loop.first and m.role != 'system' %}{{ 'd' }}{% endif %}{{ loop.index0 % 2 }}{{ loop.last and add_generation_prompt }}{% endfor %}",
    "{% for m in messages %}{% if not loop.last and messages[loop.index0 + 1].role == 'tool' %}T{% endif %}{% if loop.previtem is defined and loop.previtem.role == 'tool' %}P{% endif %}{% endfor %}",
    "{{ messages | map(attribute='content') | select('string') | join('|') }}",
    "{{ messages | map(attribute='content') | select('none') | list }}",
    "{% for name, value in messages[2].tool_calls[0].function.arguments | items %}{{ name }}={{ value | tojson if value is mapping or (value is sequence and value is not string) else value | string }};{% endfor %}",
    "{% set content = messages[4].content %}{% set parts = content.split('</think>') %}{{ parts | length }}{{ parts[1].lstrip() }}{% if content.startswith('<think>') %}R{% endif %}",
    "{{ 'x'.join([n | string, f | string]) }}",
    "{% if 'a' in d and d['a'] is number %}{{ d['a'] * 2 }}{% endif %}",
    "{{ '\\n' ~ '\\t' ~ '\\\\' ~ '\\q' }}",
    "{% set x = 5 %}{% set x = x - 1 if x > 3 else x %}{{ x }}",
    "{%- macro a() -%} q {%- endmacro -%} {{- a() }} {{ a() -}} ",
    "{{ 'abc'|replace('b','')|upper|list|join('-') }}",
    "{% set msg = messages[1] %}{{ msg.content.strip().replace('2', 'two').upper() }}",
    "{{ ('a', 'b') | join('+') }}{{ ('a', 'b')[0] }}{% for x in ('a', 'b') %}{{ x }}{% endfor %}",
    "{% for x in lst %}{% continue %}{% else %}E{% endfor %}|{% for x in lst %}{% break %}{% else %}E{% endfor %}",
    "{% for x in lst %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% else %}E{% endfor %}",
    "{% for x in lst %}{% if x == 3 %}{% break %}{% endif %}{{ x }}{% else %}E{% endfor %}",
    "{% for x in lst %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% else %}E{% endfor %}",
    "{% for x in lst if x > 1 %}{{ x }}{% continue %}{% else %}E{% endfor %}{% for x in [] %}{% break %}{% else %}e{% endfor %}",
    "{% set v = 1 %}{% for x in lst %}{% continue %}{% else %}{% set v = 5 %}{{ v }}{% endfor %}{{ v }}{{ x }}",
    "  {%- for x in lst %}\n{{ x }}\n  {% continue %}\n  {%- else -%}\n  E\n  {%- endfor %}\nz",
    "{% for x in lst %}{% for y in lst %}{% if y > x %}{% continue %}{% endif %}{{ y }}{% else %}e{% endfor %},{% if x == 1 %}{% break %}{% endif %}{% else %}E{% endfor %}",
    "{% macro m(l) %}{% for x in l %}{% if x > 1 %}{% continue %}{% endif %}{{ x }}{% else %}E{% endfor %}{% endmacro %}{{ m(lst) }}{{ m([5]) }}{{ m([]) }}",
    "{% for x in lst %}{% if x %}{% continue %}{% elif n %}q{% else %}w{% endif %}{% else %}E{% endfor %}",
    "{% raw %}\n a{% endraw %}\nb",
    "{%- raw -%}\n a{%- endraw -%}\nb",
    "{%raw%}\n\na{%-endraw%}",
    "x\n  {% raw %}  {{ a }}\n  {% endraw %}\n  b",
    " {%- raw %}\n a {% endraw %}{{ n }}",
    "{% macro m(kwargs, varargs=1) %}{{ kwargs }}{{ varargs }}{% endmacro %}{{ m(2) }}",
    "{% set kwargs = 3 %}{{ kwargs }}{{ d.varargs }}",
    "{% set c = cycler(1, 2) %}{{ c.current }}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{{ c.reset() }}{{ c.current }}",
    "{{ cycler() }}",
    "{% set x %}<{% endset %}{{ x + '<' }}{{ x | e }}{{ x is escaped }}",
    "{% macro f() %}<{% endmacro %}{{ f() + '<' }}{{ f() | e }}",
    "{% for c in ('<>' | safe) %}{{ c | e }}{% endfor %}",
]


def render(source):
    try:
        return _compile_jinja_template(source).render(**VARIABLES)
    except Exception:
        return None


def main():
    sources = ["{{ %s }}" % e for e in EXPRESSIONS] + TEMPLATES
    rows = []
    for source in dict.fromkeys(sources):
        text = render(source)
        # an address or the hash's order is nothing that a template's author can mean
        if text is None or not (" at 0x" in text or "<function" in text or "<class" in text or "<built-in" in text):
            rows.append([source, text])
    body = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    variables = json.dumps(VARIABLES, ensure_ascii=False)
    OUT.write_text('{"variables": %s,\n"templates": [\n%s\n]}\n' % (variables, body))
    print(len(rows), "templates,", sum(row[1] is None for row in rows), "of them fail,", OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
