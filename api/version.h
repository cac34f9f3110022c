/* The project's version, the same in every program. */
#ifndef MT_API_VERSION_H
#define MT_API_VERSION_H

#define MT_VERSION "0.1.0"

#endif
